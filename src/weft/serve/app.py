"""The application: routes, errors in the API's envelope, the OpenAPI document, and what runs while it is up.

Nothing here decides who may ask: `guard.py` stands before all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from weft import __version__
from weft.errors import WeftError
from weft.serve import documented
from weft.serve.errors import ApiError, invalid, translate
from weft.serve.guard import Guard
from weft.serve.routes import files, health, jobs, models, permissions, uploads
from weft.serve.server import Server

_TICK_SECONDS = 2.0
_SWEEP_EVERY = 30
"""Ticks between sweeps of what has expired."""


class Background(Protocol):
    """What starts and ends with the server: the supervisor of the workers."""

    def start(self) -> Any: ...
    def stop(self) -> Any: ...


def build(
    server: Server,
    *,
    background: Callable[[Server], Background] | None = None,
    pages: Sequence[Callable[[Server], APIRouter]] = (),
) -> FastAPI:
    """The application of `server`. `background` makes what works beside it; None: nobody trains (tests drive leases).
    `pages` make routers of further floors: web pages over the API.

    Its lifespan loads the first base, starts the background and ends both; the store is closed by who opened it.
    """
    app = FastAPI(
        title="weft",
        version=__version__,
        description="The fine-tuning API on this machine.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lambda app: _running(server, background),
    )
    resources = [one.router for one in (files, uploads, jobs, permissions, models, health)]
    routers = [make(server) for make in (*resources, *_answering(), *pages)]
    for router in routers:
        app.include_router(router)
    routes = [route for group in (app, *routers) for route in group.routes if isinstance(route, Route)]
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _misshaped)
    app.add_exception_handler(WeftError, _explained)
    app.add_middleware(Guard, server=server, routes=routes)
    app.state.log = server.log
    documented.describe(app)
    return app


def _answering() -> list[Callable[[Server], Any]]:
    from weft.serve.routes import chat, completions

    return [chat.router, completions.router]


@contextlib.asynccontextmanager
async def _running(server: Server, background: Callable[[Server], Background] | None) -> AsyncIterator[None]:
    server.engines.warm()
    beside = await run_in_threadpool(background, server) if background is not None else None
    if beside is not None:
        await run_in_threadpool(beside.start)
    ticking = asyncio.create_task(_tick(server))
    try:
        yield
    finally:
        server.draining.set()
        ticking.cancel()
        if beside is not None:
            await run_in_threadpool(beside.stop)
        await run_in_threadpool(server.engines.close, server.config.drain_seconds)


async def _tick(server: Server) -> None:
    """Bring back engines that died, and now and then remove what has expired."""
    number = 0
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        number += 1
        try:
            for said in await run_in_threadpool(server.engines.revive):
                server.log.say("engine", level="warn", message=said)
            if number % _SWEEP_EVERY == 0:
                await run_in_threadpool(server.store.sweep)
        except Exception as error:  # the next tick tries again; the server must not end over it
            server.log.failed("tick", error)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """ApiError, and the framework's own refusals."""
    if isinstance(error, ApiError):
        return JSONResponse(error.envelope(), error.status_code, error.headers)
    if not isinstance(error, HTTPException):
        raise error
    said = {
        404: f"Unknown request URL: {request.method} {request.url.path[:200]}. Look for a typo, or for /v1 in front.",
        405: f"Not allowed to {request.method} on {request.url.path[:200]}.",
    }
    code = {404: "unknown_url", 405: "method_not_supported"}.get(error.status_code)
    message = said.get(error.status_code, str(error.detail))
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    told = ApiError(error.status_code, message, code=code, headers=headers)
    return JSONResponse(told.envelope(), told.status_code, told.headers)


def _allowed(request: Request) -> str:
    """Every method of this path: the framework would name those of one route alone."""
    routes = request.app.routes
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT")}
    return ", ".join(m for m, scope in scopes.items() if any(r.matches(scope)[0] is Match.FULL for r in routes))


async def _explained(request: Request, error: Exception) -> JSONResponse:
    known = translate(error)
    if known is None:
        raise error  # the guard answers 500 and logs it
    if known.status_code >= 500:
        request.app.state.log.failed(
            "refused", error, request_id=request.scope.get("weft.request_id"), reason=str(error)
        )
    return JSONResponse(known.envelope(), known.status_code, known.headers)


async def _misshaped(request: Request, error: Exception) -> JSONResponse:
    """Fields of the wrong kind or size: 400 with the first one's path, and all of them in the message."""
    if not isinstance(error, RequestValidationError):
        raise error
    if isinstance(error.body, bytes):  # the framework parses what calls itself JSON, and nothing else
        return _answer(_not_called_json(request))
    problems: dict[str, list[str]] = {}
    for problem in error.errors():
        where = _path(problem["loc"])
        if problem["type"] == "json_invalid":
            return _answer(invalid("We could not parse the JSON body of your request.", None, "invalid_json"))
        problems.setdefault(where, []).append(problem["msg"])
    # Each alternative of a field that takes several kinds complains for itself.
    sentences = [(where, " or: ".join(messages[:4])) for where, messages in list(problems.items())[:8]]
    said = "; ".join(f"{where}: {message}" if where else message for where, message in sentences)
    return _answer(invalid(said, next(iter(problems)) or None, "invalid_value"))


def _not_called_json(request: Request) -> ApiError:
    given = request.headers.get("content-type", "").partition(";")[0].strip()[:100]
    came = f"it came as {given}" if given else "it came without that header"
    said = f"Send the body as JSON with the header `content-type: application/json`; {came}."
    return invalid(said, None, "invalid_content_type")


def _answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.envelope(), error.status_code, error.headers)


def _path(location: tuple[int | str, ...]) -> str:
    """`("body", "method", "dpo", "hyperparameters", "beta", "float")` → `method.dpo.hyperparameters.beta`."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and not _is_branch(part):
            path += f".{part}" if path else part
    return path


def _is_branch(part: str) -> bool:
    """Names of the alternatives of a union, which pydantic puts behind a field's own."""
    return part in ("int", "float", "str", "bool")
