"""Server-sent events to one reader: framing and pings by sse-starlette, and an end for whoever stops reading."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from weft.serve.logs import Log
from weft.serve.server import Server

STALLED_SECONDS = 30.0
"""How long a reader may take nothing before its stream is cut off."""
PING_SECONDS = 15.0
_MARGIN_SECONDS = 5.0


def events(server: Server, lines: AsyncGenerator[str]) -> Events:
    """A response that sends each of `lines` as the data of one event.

    A stopping server lets it go on for as long as engines may (`drain_seconds`); they end their answers properly.
    """

    async def framed() -> AsyncIterator[dict[str, str]]:
        async with aclosing(lines):
            async for line in lines:
                yield {"data": line}

    return Events(framed(), server.log, server.config.drain_seconds)


class Events(EventSourceResponse):
    """A stream whose reader may close it at any time, and is let go when it takes nothing any more."""

    def __init__(self, framed: AsyncIterator[dict[str, str]], log: Log, drain_seconds: float) -> None:
        super().__init__(
            framed,
            sep="\n",
            ping=PING_SECONDS,
            send_timeout=STALLED_SECONDS,
            shutdown_grace_period=drain_seconds + _MARGIN_SECONDS,
        )
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:  # the answer is left unfinished, so the connection is closed
            self._log.say("stream_stalled", level="warn", request_id=scope.get("weft.request_id"))
