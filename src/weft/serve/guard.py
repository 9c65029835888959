"""The one layer before every route: request id, Host and Origin, key and scope, limits, log line, metrics.

Plain ASGI, so that streams pass through untouched. A refusal ends here, in the envelope; what a route did not foresee
becomes a 500 whose id leads to the log.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.serve import access
from weft.serve.access import EVERYONE, PUBLIC, Caller, Hosts
from weft.serve.entrance import ARRIVED
from weft.serve.errors import ApiError, translate, unavailable
from weft.serve.known import Known
from weft.serve.limits import BoundedBody, Rates, too_large
from weft.serve.server import Server
from weft.serve.structure import Structure

_ANSWERED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose requests go to an engine."""
_SHARED_METHODS = "GET, POST, DELETE, OPTIONS"
_SHARED_HEADERS = "authorization, content-type, idempotency-key, openai-organization, openai-project"
_ROOM_FOR_FORM = 1 << 20
"""Bytes of a multipart body beside the file itself."""
_MB = 1 << 20


@dataclass
class _Exchange:
    """What is known of one request so far: what its log line will tell."""

    id: str
    began: float
    status: int = 0
    caller: Caller | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Guard:
    """Wraps the application. `server.keys` decide who may pass; `access.PUBLIC` is what needs no key.

    `routes` name what is counted.
    """

    def __init__(self, app: ASGIApp, server: Server, routes: Sequence[Route]) -> None:
        self._app, self._server, self._routes = app, server, routes
        config = server.config
        self._hosts = Hosts(config)
        self._known = Known(server.store.keys)
        self._rates = Rates(config.requests_per_minute, config.concurrent_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # there is no route that speaks anything but HTTP

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange("req_" + secrets.token_hex(12), time.perf_counter())
        scope["weft.request_id"] = exchange.id

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in exchange.headers.items():
                    headers[name] = value
                headers["x-request-id"] = exchange.id
                headers["x-content-type-options"] = "nosniff"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        self._server.measures.open.inc()
        try:
            await self._admitted(scope, receive, told, exchange)
        finally:
            self._server.measures.open.dec()
            self._note(scope, exchange)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange) -> None:
        entered, arrived = False, None
        try:
            answered = self._strangers(scope, exchange)
            if answered is None:
                caller = await self._caller(scope, exchange)
                exchange.caller = scope["weft.caller"] = caller
                if scope["path"] not in PUBLIC:
                    exchange.headers |= self._rates.enter(caller.owner)
                    entered = True
                if scope["method"] == "POST" and scope["path"] in _ANSWERED:
                    arrived = scope[ARRIVED] = self._server.entrance.come(self._server.engines, caller.owner)
                await self._app(scope, self._bounded(scope, receive), send)
                return
        except ClientDisconnect:
            return  # nobody is there to be answered
        except ApiError as error:
            answered = _refusal(error)
            self._server.measures.refused.labels(error.code or str(error.status_code)).inc()
        except Exception as error:
            known = translate(error)
            if known is None:
                self._server.log.failed("unexpected", error, request_id=exchange.id)
                known = ApiError(500, f"The server failed to answer this. Its log tells why, under {exchange.id}.")
            if exchange.status:
                raise
            answered = _refusal(known)
        finally:
            if entered and exchange.caller:
                self._rates.leave(exchange.caller.owner)
            if arrived is not None:
                arrived()
        if not exchange.status:
            await answered(scope, receive, send)

    def _strangers(self, scope: Scope, exchange: _Exchange) -> Response | None:
        """Refuse foreign names and pages; answer a page's question beforehand whether it may ask."""
        headers = Headers(scope=scope)
        refused = self._hosts.refuse(headers.getlist("host"), headers, scope["path"])
        if refused is not None:
            raise refused
        origin = headers.get("origin")
        if origin is None or not self._hosts.shared_with(origin):
            return None
        exchange.headers |= {"access-control-allow-origin": origin, "vary": "Origin"}
        if scope["method"] != "OPTIONS" or "access-control-request-method" not in headers:
            exchange.headers["access-control-expose-headers"] = "x-request-id, retry-after, x-weft-warning"
            return None
        allowed = {
            "access-control-allow-methods": _SHARED_METHODS,
            "access-control-allow-headers": _SHARED_HEADERS,
            "access-control-max-age": "600",
        }
        return Response(status_code=204, headers=allowed)

    async def _caller(self, scope: Scope, exchange: _Exchange) -> Caller:
        """The caller of this path, with a scope that it needs. Raises ApiError 401, 403, 503.

        Who lacks the scope is in `exchange` all the same: the log names the key that tried.
        """
        path, method = scope["path"], scope["method"]
        public = path in PUBLIC and method in ("GET", "HEAD")
        if self._server.draining.is_set() and not public:
            raise unavailable("The server is stopping; ask again when it is back.", "draining")
        if public:
            return EVERYONE
        if self._server.config.loopback and not await self._known.exist():
            return EVERYONE
        secret = access.bearer(Headers(scope=scope).get("authorization"))
        if secret is None:
            raise access.no_key()
        key = await self._known.find(secret)
        if key is None:
            raise access.wrong_key()
        exchange.caller = Caller(key.owner, frozenset(key.scopes), key.id)
        scopes = access.needed(method, path)
        if scopes is None and self._is_route(scope):
            scopes = ("admin",)
        if scopes is not None and not set(scopes) & set(key.scopes):
            raise access.lacks(scopes)
        return exchange.caller

    def _is_route(self, scope: Scope) -> bool:
        """Whether any route has this path; one that no list names is for `admin` alone, an unknown one is a 404."""
        return any(route.matches(scope)[0] is not Match.NONE for route in scope["app"].routes)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        config = self._server.config
        most, structure = config.body_mb * _MB, None
        if scope["method"] == "POST" and scope["path"].rstrip("/") == "/v1/files":
            most = config.file_mb * _MB + _ROOM_FOR_FORM
        elif scope["method"] == "POST" and scope["path"].startswith("/v1/uploads/"):
            most = config.part_mb * _MB + _ROOM_FOR_FORM
        else:
            structure = Structure()
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large(most)
        return BoundedBody(receive, most, config.slow_seconds, structure)

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        """Count the request and write its line."""
        seconds = time.perf_counter() - exchange.began
        route = self._pattern(scope)
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        measures = self._server.measures
        measures.requests.labels(method, route, str(exchange.status)).inc()
        measures.seconds.labels(method, route).observe(seconds)
        self._server.log.say(
            "request",
            request_id=exchange.id,
            method=method,
            path=scope["path"],
            status=exchange.status,
            seconds=round(seconds, 4),
            owner=exchange.caller.owner if exchange.caller else None,
            key=exchange.caller.key if exchange.caller else None,
        )

    def _pattern(self, scope: Scope) -> str:
        """The pattern of the URL's route. A plain route leaves none in the scope, nor does what was refused before."""
        found = scope.get("route")
        if found is None:
            found = next((route for route in self._routes if route.matches(scope)[0] is not Match.NONE), None)
        return found.path if found is not None else "unknown"


def _refusal(error: ApiError) -> JSONResponse:
    return JSONResponse(error.envelope(), error.status_code, error.headers)
