"""The door before the engines: whoever would find no place in the line is told so before work is spent on the request.

Between this look and the line's own, exact one the body is read and the prompt made; requests that are in there count
as if they stood in the line, so that a crowd which comes at once is refused at once, and not after that work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request

from weft.generate.requests import Full
from weft.serve.errors import too_many

if TYPE_CHECKING:
    from weft.generate.continuous import Engine
    from weft.serve.engines import Engines

ARRIVED = "weft.arrived"
"""Where the guard leaves in a request's scope how to count it out of those that come."""
PREPARED_TOGETHER = 8
"""Prompts that are made at the same time, in threads of their own: look-ups in the store never wait for them."""
T = TypeVar("T")


class Entrance:
    """Requests on their way to a line, by owner. The event loop alone calls it."""

    def __init__(self) -> None:
        self._coming: Counter[str] = Counter()
        self._preparing: dict[Engine, Counter[str]] = {}
        self._threads = CapacityLimiter(PREPARED_TOGETHER)

    def come(self, engines: Engines, owner: str) -> Callable[[], None]:
        """Count a request in before its body is read; how to count it out again, once or more often.

        Raises ApiError 429 where every engine is there and none has a place for `owner`. Of those that come only the
        owner's own are counted: whoever sends bodies slowly keeps nobody else out.
        """
        refusal: Full | None = None
        for engine in engines.every() or ():
            try:
                self._ask(engine, owner, self._coming[owner])
                refusal = None
                break
            except Full as full:
                refusal = full
        if refusal is not None:
            raise too_many(str(refusal), refusal.retry_after)
        self._coming[owner] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                _less(self._coming, owner)

        return leave

    async def prepared(self, request: Request, engine: Engine, owner: str, work: Callable[[], T]) -> T:
        """What `work` makes of a request that the guard counted in, in a thread. Raises ApiError 429 where `engine`
        would have no place for it, and what `work` raises."""
        request.scope[ARRIVED]()
        try:
            self._ask(engine, owner, 0)
        except Full as full:
            raise too_many(str(full), full.retry_after) from None
        owners = self._preparing.setdefault(engine, Counter())
        owners[owner] += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            _less(owners, owner)
            if not owners:
                self._preparing.pop(engine, None)

    def _ask(self, engine: Engine, owner: str, coming: int) -> None:
        owners = self._preparing.get(engine, Counter())
        engine.refuse(owner, owners.total() + coming, owners[owner] + coming)


def _less(counts: Counter[str], owner: str) -> None:
    counts[owner] -= 1
    if not counts[owner]:
        del counts[owner]
