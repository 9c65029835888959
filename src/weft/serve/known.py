"""Whose key it is, asked of the store by many at once and looked up once.

Nothing is remembered but that keys exist, which never changes back: a look-up serves those who came while it was under
way, so a revoked key ends with the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from weft.serve.records import Key

if TYPE_CHECKING:
    from weft.serve.keys import Keys


class Known:
    """The keys of a store for one event loop."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._exist = False
        self._asked: dict[str, asyncio.Task[Any]] = {}

    async def exist(self) -> bool:
        """Whether a key was ever made."""
        self._exist = self._exist or await self._once("", self._keys.exist)
        return self._exist

    async def find(self, secret: str) -> Key | None:
        """The key that this is, if it counts now."""
        return await self._once(secret, lambda: self._keys.find(secret))

    async def _once(self, what: str, look: Callable[[], Any]) -> Any:
        task = self._asked.get(what)
        if task is None:
            task = self._asked[what] = asyncio.create_task(run_in_threadpool(look))
            task.add_done_callback(lambda _: self._asked.pop(what, None))
        return await asyncio.shield(task)  # who goes away takes nothing from the others
