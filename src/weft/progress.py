"""How long work tells that it is going on: an interface of four calls, and one that keeps silent.

Stages take a `Progress` and never know whether a terminal, a log or nobody listens.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a listener offers. Totals and counts are in `unit`s; notes are short and may change at each call."""

    def say(self, text: str) -> None:
        """One finished sentence, shown as it is."""

    def start(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins; an earlier one that is still open ends."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""

    def finish(self, note: str = "") -> None:
        """The open stage ends."""


class Silent:
    """A listener that says nothing."""

    def say(self, text: str) -> None: ...

    def start(self, stage: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, count: int = 1, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...
