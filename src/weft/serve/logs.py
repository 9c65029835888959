"""The server's log: one JSON object per line. No prompts, rows or keys; no character that a terminal would obey."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from weft.serve.errors import masked

_LONGEST = 2000


class Log:
    """Lines to a stream (default: stderr as it is at that time); `None` for a log that says nothing."""

    def __init__(self, kind: str = "json", stream: TextIO | None = None) -> None:
        self._silent = kind == "none"
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """One line: time (UTC), level, event and the facts that are not None."""
        if self._silent:
            return
        told = {name: _clean(value) for name, value in facts.items() if value is not None}
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **told}).replace("\x7f", "\\u007f")
        with self._lock:
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()

    def failed(self, event: str, error: BaseException, **facts: Any) -> None:
        """A line for what nobody foresaw: the kind of error and where it arose. Its text may quote a request."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        self.say(event, level="error", error=type(error).__name__, at=places, **facts)


def _clean(value: Any) -> Any:
    """Text without secrets and not endless; json escapes its control characters and all that is not ASCII."""
    if isinstance(value, str):
        return masked(value)[:_LONGEST]
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value
