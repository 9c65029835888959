"""An answer on its way out, the same for chat and for plain text: as events, or whole while its reader is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from weft.serve.events import events
from weft.serve.replies import CLOSED, Gone, Replies, while_there
from weft.serve.server import Server
from weft.serve.wire.body import warn
from weft.serve.wire.sampled import Sampled


class Outgoing(Protocol):
    """What a route has to say."""

    def stream(self) -> AsyncGenerator[str]:
        """Line by line; closes the replies itself."""
        ...

    def whole(self) -> Coroutine[Any, Any, Any]:
        """All of it, once it is there."""
        ...


async def respond(server: Server, request: Request, body: Sampled, replies: Replies, outgoing: Outgoing) -> Response:
    """The response that `body` asked for, with its warnings. Whoever has gone is answered with nothing."""
    if body.stream:
        response = events(server, outgoing.stream())

        async def free() -> None:
            replies.close()

        response.background = BackgroundTask(free)  # a reader who left before the first line never started the stream
    else:
        try:
            response = JSONResponse(await while_there(request, outgoing.whole()))
        except Gone:
            return Response(status_code=CLOSED)
        finally:
            replies.close()
    warn(response, *body.warnings())
    return response
