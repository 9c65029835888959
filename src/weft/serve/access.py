"""Who may ask: the key's owner and scopes, the Host and Origin that a request names, the short list of public routes.

Decisions only; `guard.py` applies them to every request. Without any key, and on loopback alone, every caller is the
owner `local` with all scopes. What is not listed here needs a key with the scope `admin`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from weft.serve.config import ServeConfig
from weft.serve.errors import ApiError

LOCAL = "local"
SCOPES = ("files", "jobs", "models", "chat", "admin")
PUBLIC = frozenset({"/health", "/ready", "/", "/page.js"})
"""Paths that are answered without a key (GET and HEAD alone)."""
_NEEDS = (
    ("/v1/files", ("files",)),
    ("/v1/uploads", ("files",)),
    ("/v1/fine_tuning/checkpoints", ("admin",)),
    ("/v1/fine_tuning", ("jobs",)),
    ("/v1/models", ("models",)),
    ("/v1/chat", ("chat",)),
    ("/v1/completions", ("chat",)),
    ("/v1/embeddings", ("chat",)),
)
_LISTS_MODELS = ("models", "chat", "jobs")
"""Whoever may tune or ask may see the names to do it with."""
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request. Every look-up in the store is made with this owner."""

    owner: str
    scopes: frozenset[str]
    key: str | None = None
    """Id of the key; None where none was needed."""


EVERYONE = Caller(LOCAL, frozenset(SCOPES))
"""The caller of a server without keys."""


def caller(request: Request) -> Caller:
    """The caller that the guard admitted. A route that the guard did not see has none and fails."""
    return request.scope["weft.caller"]


Asker = Annotated[Caller, Depends(caller)]
"""`def route(asker: Asker)`: what every route takes."""


def needed(method: str, path: str) -> tuple[str, ...] | None:
    """Scopes of which a key needs one for this path; None for a path that no line of the list covers."""
    for prefix, scopes in _NEEDS:
        if path == prefix or path.startswith(prefix + "/"):
            return _LISTS_MODELS if prefix == "/v1/models" and method in ("GET", "HEAD") else scopes
    return None


def bearer(authorization: str | None) -> str | None:
    """The key of an `Authorization: Bearer KEY` header; None where there is none."""
    kind, _, key = (authorization or "").partition(" ")
    return key.strip() or None if kind.lower() == "bearer" else None


class Hosts:
    """The names that this server may be called by, and the web origins that may call it.

    Against DNS rebinding: a page whose own name was pointed at this address sends that name as Host. A numeric
    address cannot be rebound, so any is fine beyond loopback; on loopback only its own are.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._loopback = config.loopback
        self._any = "*" in config.hosts
        self._names = {"localhost", config.host.lower().strip("[]"), *(host.lower() for host in config.hosts)}
        if not config.loopback:
            self._names.add(socket.gethostname().lower())
        self._origins = frozenset(origin.lower() for origin in config.origins)

    def refuse(self, hosts: Sequence[str], headers: Mapping[str, str], path: str) -> ApiError | None:
        """Why a request with these Host headers and others is refused; None where it is not."""
        parsed = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if parsed is None or not self._known(parsed["name"].lower().strip("[]")):
            return ApiError(
                403,
                "This server is not called by the name in the Host header. Its operator can allow it: --hosts NAME.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not (self.shared_with(origin) or _same(origin, hosts[0])):
            return _foreign_page()
        # Without an Origin (an image, a script, a link) the browser still says where the request came from.
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site") and path not in PUBLIC:
            return _foreign_page()
        return None

    def shared_with(self, origin: str) -> bool:
        """Whether the operator let pages of this other origin read answers."""
        return origin.lower() in self._origins

    def _known(self, name: str) -> bool:
        if self._any or name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


def _same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was itself served by `host`."""
    scheme, _, authority = origin.lower().partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return default is not None and authority.removesuffix(default) == host.lower().removesuffix(default)


def _foreign_page() -> ApiError:
    return ApiError(
        403,
        "A web page of another origin may not call this server. Its operator can allow one: --origins https://NAME.",
        code="origin_not_allowed",
    )


def no_key() -> ApiError:
    """401 for a request without a key."""
    return _unauthorized("You didn't provide an API key. Send it as a header: `Authorization: Bearer KEY`.")


def wrong_key() -> ApiError:
    """401 for a key that is unknown, expired or revoked: which of them is not told."""
    return _unauthorized("Incorrect API key provided. The operator of this server makes one with `weft keys create`.")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def lacks(scopes: Sequence[str]) -> ApiError:
    """403 for a key without any of the scopes."""
    said = " or ".join(f"`{scope}`" for scope in scopes)
    return ApiError(403, f"This key lacks the scope {said}.", code="missing_scope", type="insufficient_permissions")
