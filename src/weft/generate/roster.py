"""Who waits for an engine and who runs in it, how each one ends, and the signal that something has changed.

Any thread may look or add, under `change`; only the engine's thread lets rows begin and end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from weft.errors import WeftError
from weft.generate.adapters import Failed, Loaded
from weft.generate.admission import Admission
from weft.generate.requests import Finish, Step
from weft.generate.row import Row
from weft.generate.work import Pass

LONGEST_RETRY = 60.0
"""Seconds."""


class Roster:
    """The rows of one engine. `owner`: the pass that their seats belong to."""

    def __init__(self, admission: Admission, owner: Pass) -> None:
        self.change = threading.Condition()
        self.changed = False
        self.line, self.running = admission.line, list[Row]()
        self._admission, self._pass = admission, owner
        self._pace, self._last_end = 1.0, time.monotonic()  # seconds between two replies' ends, smoothed

    def __iter__(self) -> Iterator[Row]:
        """All of them, as they are now."""
        with self.change:
            return iter([*self.running, *self.line])

    def wake(self) -> None:
        """Let the engine look at what changed."""
        with self.change:
            self.changed = True
            self.change.notify()

    @property
    def retry_after(self) -> float:
        """A guess in seconds of when the line will have a place."""
        return min(LONGEST_RETRY, max(1.0, self._pace * (self.line.rows + 1)))

    def next(self) -> tuple[Row, Loaded[Any] | None] | None:
        """A waiting row that runs from now on, with its adapter; None: nobody may begin now.

        Those whose adapter cannot be loaded end on the way.
        """
        while True:
            with self.change:
                if (found := self._admission.next(self.running)) is None:
                    return None
                row, adapter = found
                self.running.append(row)
                same = [other for other in self.line if other.generation.adapter == row.generation.adapter]
            if not isinstance(adapter, Failed):
                return row, adapter
            for other in (row, *same):
                self.end(other, "error", adapter.reason)

    def finish(self, row: Row, step: Step) -> None:
        """A reply that ended by itself, with this step."""
        now = time.monotonic()
        self._pace += 0.2 * (now - self._last_end - self._pace)
        self._last_end = now
        self._leave(row)
        with contextlib.suppress(Exception):  # it has had its reply
            row.on_step(step)

    def end(self, row: Row, finish: Finish, error: str | None = None) -> None:
        """End a reply before its time."""
        self._leave(row)
        with contextlib.suppress(Exception):  # a listener that cannot hear its end harms nobody else
            row.on_step(Step(finish=finish, cached=row.cached, error=error if finish == "error" else None))

    @contextlib.contextmanager
    def concerning(self, row: Row) -> Iterator[None]:
        """What goes wrong inside is this row's end, and nobody else's."""
        try:
            yield
        except Exception as error:
            self.end(row, "error", in_words(error))

    def _leave(self, row: Row) -> None:
        with self.change:
            self.line.remove(row)
            if row in self.running:
                self.running.remove(row)
            self.changed = True  # somebody may wait for the room
        if row.seat is not None:
            seat, row.seat = row.seat, None
            self._pass.close(seat)


def in_words(error: BaseException) -> str:
    """The error as a row hears it: weft's own say what to do, others begin with their kind."""
    return str(error) if isinstance(error, WeftError) else f"{type(error).__name__}: {error}"
