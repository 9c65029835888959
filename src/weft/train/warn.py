"""What a training tells whoever owns it while it goes on: an event of the run, and a line of its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weft.runs import Run

WARNING = "warning"
"""The kind of such an event; `weft serve` passes its `message` on to the owner of the job."""


def warn(run: Run, say: Callable[[str], None], message: str, **facts: Any) -> None:
    """`message`: a sentence without a path of this machine; `facts`: what else the event keeps."""
    run.event(WARNING, message=message, **facts)
    say(f"    {message}")
