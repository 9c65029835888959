"""How much one owner may ask for: requests in a minute, requests at once, bytes of a body, time to send it.

In memory, per server. Numbers are of the owner, not of the key: a second key buys nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive

from weft.serve.errors import ApiError, body_too_large, too_many
from weft.serve.structure import Structure

_LEAST_BYTES_PER_SECOND = 1024
"""What a body must bring on average once `slow_seconds` have passed."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rates:
    """Requests per minute and at once, of each owner. The event loop alone calls it."""

    def __init__(self, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._at_once, self._clock = per_minute, at_once, clock
        self._buckets: dict[str, _Bucket] = {}
        self._open: Counter[str] = Counter()

    def enter(self, owner: str) -> dict[str, str]:
        """Count a request in; the answer's `x-ratelimit-*` headers. Raises ApiError 429 with `Retry-After`.

        Whoever enters must leave.
        """
        now = self._clock()
        bucket = self._buckets.setdefault(owner, _Bucket(self._per_minute, now))
        per_second = self._per_minute / 60
        bucket.left = min(self._per_minute, bucket.left + (now - bucket.at) * per_second)
        bucket.at = now
        if bucket.left < 1:
            raise too_many(
                f"Rate limit reached: {self._per_minute} requests per minute.", (1 - bucket.left) / per_second
            )
        if self._open[owner] >= self._at_once:
            raise too_many(f"Rate limit reached: {self._at_once} requests at the same time.", 1)
        bucket.left -= 1
        self._open[owner] += 1
        return {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(int(bucket.left)),
        }

    def leave(self, owner: str) -> None:
        """Count a request out."""
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]


class BoundedBody:
    """A request's `receive` that ends a body which is too long, made of too much (413) or comes too slowly (408)."""

    def __init__(
        self, receive: Receive, most_bytes: int, slow_seconds: float, structure: Structure | None = None
    ) -> None:
        """`structure`: of a body that will be read as JSON."""
        self._receive, self._most, self._slow, self._structure = receive, most_bytes, slow_seconds, structure
        self._bytes = 0
        self._ended = False
        self._began = time.monotonic()

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()  # the next message is that the client went away, whenever that is
        try:
            message = await asyncio.wait_for(self._receive(), self._slow)
        except TimeoutError:
            raise _slow(self._slow) from None
        if message["type"] != "http.request":
            self._ended = True
            return message
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._bytes > self._most:
            raise too_large(self._most)
        if self._structure is not None:
            self._structure.take(message.get("body", b""))
        late = time.monotonic() - self._began - self._slow
        if not self._ended and self._bytes < late * _LEAST_BYTES_PER_SECOND:
            raise _slow(self._slow)
        return message


def too_large(most_bytes: int) -> ApiError:
    """For a body of more than `most_bytes`."""
    return body_too_large(f"The request is larger than the {most_bytes:,} bytes that are taken here.")


def _slow(seconds: float) -> ApiError:
    return ApiError(
        408,
        f"The request did not come in time: nothing for {seconds:g} seconds, or less than 1 KB per second.",
        code="request_timeout",
        headers={"connection": "close"},
    )
