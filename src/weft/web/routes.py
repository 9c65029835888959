"""`/` and `/page.js`: the page with its style, and its script, with headers that let nothing else in.

The script is one request, put together from `script/`. The style stands in the page, named there by its hash.

Both are public, for a browser sends no key with them. What belongs to an owner is in the page only where no key is
needed at all; otherwise the page comes empty, asks for a key, and its script fills it through the API.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from weft.evaluate.report import words
from weft.serve.server import Server
from weft.web import view

HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
_SCRIPT = ("elements", "api", "jobs", "curve", "models", "chat", "start")
"""The script's files; each may use what stands before it at once, and what stands after it when an event comes."""


def router(server: Server) -> APIRouter:
    """The page's routes. They are no part of the API, so the OpenAPI document does not list them."""
    routes = APIRouter()

    def page(request: Request) -> Response:
        keyless = server.config.loopback and not server.store.keys.exist()
        shown = view.page(server, f"{request.url.scheme}://{request.url.netloc}/v1", keyless=keyless)
        return HTMLResponse(_template().render(shown, style=Markup(_style())), headers=HEADERS | _policy())

    def script(request: Request) -> Response:
        joined = "\n".join(_read(f"script/{name}.js") for name in _SCRIPT)
        return Response(joined, media_type="text/javascript", headers=HEADERS | _policy())

    # Plain routes: they answer HEAD too, and are in no document.
    routes.add_route("/", page, methods=["GET"], include_in_schema=False)
    routes.add_route("/page.js", script, methods=["GET"], include_in_schema=False)
    return routes


def _style() -> str:
    """What stands between the page's `<style>` and `</style>`."""
    return _read("page.css")


@cache
def _policy() -> dict[str, str]:
    """What a browser may load and run: this server's script and answers, and this one style."""
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode("ascii")
    said = (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"content-security-policy": said}


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    return environment.from_string(_read("page.html.j2"))


@cache
def _read(name: str) -> str:
    return files("weft.web").joinpath(name).read_text(encoding="utf-8")


def _visible(value: object) -> object:
    """Control characters and direction overrides in foreign text are shown, not obeyed."""
    return words.plain(value) if type(value) is str else value
