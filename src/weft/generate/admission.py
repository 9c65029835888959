"""Who begins next: in turn from the owners, once the adapter is in memory and the longest reply has room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.generate.adapters import Failed, Loaded, Shelf
from weft.generate.line import Line
from weft.generate.requests import Limits
from weft.generate.row import Row


class Admission:
    """The waiting line with the shelf of adapters. Not thread-safe."""

    def __init__(self, limits: Limits, shelf: Shelf[Any], token_bytes: int) -> None:
        self._limits, self._shelf, self._token_bytes = limits, shelf, token_bytes
        self.line: Line[Row] = Line(limits)

    def next(self, running: Sequence[Row]) -> tuple[Row, Loaded[Any] | Failed | None] | None:
        """A row that may begin beside those `running`, taken out of the line, with its adapter; None: nobody now.

        Rows whose adapter is being loaded are passed by. One that waits for memory is not: it would wait for ever.
        """
        if len(running) >= self._limits.rows or not self.line.rows:
            return None
        wanted = {row.generation.adapter for row in (*running, *self.line)} - {None}
        free = self._limits.held_bytes - self._token_bytes * sum(row.reach for row in running)
        looked: dict[str, Loaded[Any] | Failed | None] = {}
        blocked = False

        def ready(row: Row) -> bool:
            nonlocal blocked
            identity = row.generation.adapter
            if identity is not None and identity not in looked:
                looked[identity] = self._shelf.get(identity, wanted)  # type: ignore[arg-type]
            adapter = None if identity is None else looked[identity]
            if isinstance(adapter, Failed):
                return True
            if identity is not None and adapter is None:
                return False
            blocked = blocked or row.reach * self._token_bytes > free
            return not blocked

        row = self.line.next(ready)
        return None if row is None else (row, looked.get(row.generation.adapter or ""))
