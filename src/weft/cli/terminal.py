"""What a command shows while it works: on stderr, with a rate and the remaining time; plain lines when piped."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from weft.cli.interrupt import Interrupt

LINE_SECONDS = 15.0
"""Without a terminal, a long stage says where it stands this often."""


class TerminalProgress:
    """A weft.progress.Progress for people: a moving bar on a terminal, finished lines everywhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._interrupt = Interrupt()
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage, self._unit, self._note = "", "", ""
        self._total: int | None = None
        self._done = 0
        self._started = self._told = 0.0

    def __enter__(self) -> TerminalProgress:
        self._interrupt.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._close()  # a bar that is left open hides the cursor and overwrites the message of what went wrong
        self._interrupt.__exit__(*raised)

    def say(self, text: str) -> None:
        self._close()
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, stage: str, total: int | None = None, unit: str = "") -> None:
        self._interrupt.check()
        self._close()
        self._stage, self._total, self._unit, self._done, self._note = stage, total, unit, 0, ""
        self._started = self._told = time.monotonic()
        if self.console.is_terminal:
            self._bars = Bars(
                TextColumn("  {task.description:<26}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}  {task.fields[note]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
                refresh_per_second=5,
            )
            self._bars.start()
            self._task = self._bars.add_task(stage, total=total, note="", rate="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._interrupt.check()
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, advance=count, note=self._note, rate=self._rate(now))
        elif now - self._told >= LINE_SECONDS and self._total:
            self._told = now
            left = (now - self._started) / max(self._done, 1) * (self._total - self._done)
            self.console.print(
                f"  {self._stage}: {self._done}/{self._total} {self._unit}, {self._rate(now)}, "
                f"about {left:.0f} s left{', ' + self._note if self._note else ''}",
                markup=False,
                soft_wrap=True,
            )

    def finish(self, note: str = "") -> None:
        if self._stage:
            seconds = time.monotonic() - self._started
            line = f"  {self._stage:<26} {seconds:6.1f} s  {note or self._note}".rstrip()
            self._close()
            self.console.print(line, markup=False, soft_wrap=True)

    def _rate(self, now: float) -> str:
        seconds = now - self._started
        return f"{self._done / seconds:.1f} {self._unit}/s" if seconds > 0.2 and self._done else ""

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None
        self._stage = ""


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    import json

    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
