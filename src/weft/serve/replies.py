"""Answers while they come: an engine's steps handed to the event loop, and their ids as text.

An engine's thread only hands steps over. Whoever reads is bounded in time and memory, and whoever is gone frees its
slots.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from starlette.requests import Request

from weft.errors import RunError
from weft.generate.requests import Full, Generation, Step
from weft.generate.text import Text
from weft.serve.errors import ApiError, too_many, unavailable
from weft.serve.server import Server
from weft.serve.token_text import TokenText

if TYPE_CHECKING:
    from weft.generate.continuous import Engine, Ticket

BUFFERED = 8192
"""Steps that may wait for a reader; one that is further behind is cut off."""
CLOSED = 499
"""Status in the log for a client that went away (nginx's number; nobody receives it)."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer with its log-probability."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step brought: text that is settled, the tokens since the piece before, why the answer ended."""

    text: str
    tokens: tuple[Token, ...]
    finish: Literal["stop", "length"] | None


class EngineFailed(Exception):
    """An answer broke off; the message is for the log, not for the caller."""


class Speech:
    """One answer while it is spoken."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str], tokens: TokenText) -> None:
        self._text = Text(decode, stops)
        self._tokens = tokens
        self._waiting: list[Token] = []
        self._ahead = 0
        """Bytes of told text that lie behind the beginning of the first waiting token."""
        self.generated = 0
        """Tokens, the one that ended it included."""
        self.cached = 0
        self.finished = False

    def hear(self, step: Step) -> Piece:
        """The next piece. Raises EngineFailed where the engine gave up on this answer."""
        if step.finish == "error":
            raise EngineFailed(step.error or "the engine gave no reason")
        self.generated += len(step.ids) + (step.finish == "stop")
        self.cached = max(self.cached, step.cached)
        top = step.top or ((),) * len(step.ids)
        self._waiting += [Token(*each) for each in zip(step.ids, step.logprobs, top, strict=False)]
        text, stopped = self._text.push(step.ids)
        if step.finish and not stopped:
            text += self._text.rest()
            stopped = self._text.stopped
        finish = "stop" if stopped else _FINISH.get(step.finish or "")
        self.finished = finish is not None
        tokens = self._waiting if self.finished and not stopped else self._told(len(text.encode()))
        return Piece(text, tuple(tokens), finish)

    def _told(self, new_bytes: int) -> list[Token]:
        """The waiting tokens that begin in what has been told; those of a stop text never do."""
        told: list[Token] = []
        self._ahead += new_bytes
        while self._waiting and self._ahead > 0:
            told.append(self._waiting.pop(0))
            self._ahead -= self._tokens.shown_bytes(told[-1].id)
        return told


_FINISH: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length", "cancelled": "length"}
"""An answer that a stopping server cut is one that is too short: `length` is the API's word for it."""


class Replies:
    """The answers of one request in an engine. Made and read on the event loop; `close` frees every slot at once."""

    def __init__(self, engine: Engine, generations: Sequence[Generation], most_waiting: int = BUFFERED) -> None:
        """Raises ApiError 429 where the engine's line is full, 503 where it has ended; then none of them is asked."""
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, Step]] = asyncio.Queue()
        self._most = most_waiting
        self._tickets: list[Ticket] = []
        self._open = set(range(len(generations)))
        self._cut: set[int] = set()
        try:
            for number, generation in enumerate(generations):
                self._tickets.append(engine.submit(generation, partial(self._hear, number)))
        except BaseException as error:
            self.close()
            if isinstance(error, Full):
                raise too_many(str(error), error.retry_after) from None
            if isinstance(error, RunError):
                raise unavailable("The engine has stopped; it is being started again.", "engine_dead") from None
            raise

    async def steps(self) -> AsyncIterator[tuple[int, Step]]:
        """(number of the generation, its next step), as they come, until all have ended."""
        while self._open:
            number, step = await self._heard.get()
            if number in self._open:
                if step.finish:
                    self._open.discard(number)
                yield number, step

    def end(self, number: int) -> None:
        """Enough of this one."""
        if number in self._open:
            self._open.discard(number)
            self._tickets[number].cancel()

    def close(self) -> None:
        """Enough of all."""
        for ticket in self._tickets:
            ticket.cancel()
        self._open.clear()

    def _hear(self, number: int, step: Step) -> None:
        """In the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever listened
            self._loop.call_soon_threadsafe(self._put, number, step)

    def _put(self, number: int, step: Step) -> None:
        if self._heard.qsize() < self._most or step.finish:
            self._heard.put_nowait((number, step))
        elif number in self._open - self._cut:
            self._cut.add(number)
            self._tickets[number].cancel()
            self._heard.put_nowait((number, Step(finish="error", error="the stream is read too slowly")))


class Gone(Exception):
    """The client closed the connection; there is nobody to answer."""


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection. Raises Gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def failure(server: Server, error: EngineFailed, request: Request) -> ApiError:
    """What a caller hears of a broken answer; the reason goes to the log."""
    id_: Any = request.scope.get("weft.request_id")
    server.log.say("answer_failed", level="error", request_id=id_, reason=str(error))
    return ApiError(500, f"The answer broke off. The server's log tells why, under {id_}.", code="engine_error")
