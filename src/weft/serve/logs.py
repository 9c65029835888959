"""The server's log on stderr: JSON, one object per line, for programs; readable lines for a terminal, without the GETs
that went well: pages and clients that wait for a job ask every few seconds, and would bury all else.

No prompts, rows or keys; no character that a terminal would obey. What cannot be written is lost: a full disk or a
reader that went away must not fail the request that the line is about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from weft.serve.errors import masked

_LONGEST = 2000
_REQUEST = ("method", "path", "status", "seconds")
"""What every line about a request tells (guard.py)."""


class Log:
    """Lines to a stream (default: stderr as it is at that time).

    `kind`: `json`, `text`, `none`, or `auto`, which is `text` on a terminal and `json` elsewhere.
    """

    def __init__(self, kind: str = "json", stream: TextIO | None = None) -> None:
        at = stream or sys.stderr
        terminal = kind == "auto" and at is not None and at.isatty()
        self._write = {"none": None, "text": _readable}.get("text" if terminal else kind, _one_object)
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """One line: time (JSON: UTC; text: local), level, event and the facts that are not None."""
        if self._write is None:
            return
        told = {name: _clean(value) for name, value in facts.items() if value is not None}
        line = self._write(datetime.fromtimestamp(time.time(), UTC), level, event, told)
        if line is None:
            return
        with self._lock, contextlib.suppress(OSError, ValueError):
            if stream := self._stream or sys.stderr:
                stream.write(line + "\n")
                stream.flush()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Meanwhile, what libraries warn of (`logging`) becomes lines of this log, and no text between them."""
        handler = _Warnings(self)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)

    def failed(self, event: str, error: BaseException, **facts: Any) -> None:
        """A line for what nobody foresaw: the kind of error and where it arose. Its text may quote a request."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        self.say(event, level="error", error=type(error).__name__, at=places, **facts)


class _Warnings(logging.Handler):
    """Hands records on; of an exception its kind and place, for its text may quote a request."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage().partition("\n")[0]
        except Exception:  # as every handler does with a record that cannot be put together
            self.handleError(record)
            return
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._log.failed("library", error, name=record.name, message=said)
        else:
            self._log.say("library", level="warn", name=record.name, message=said)


def _one_object(now: datetime, level: str, event: str, told: dict[str, Any]) -> str:
    return _escaped({"time": now.isoformat(timespec="milliseconds"), "level": level, "event": event, **told})


def _readable(now: datetime, level: str, event: str, told: dict[str, Any]) -> str | None:
    """`18:02:11  POST /v1/files 200  0.012 s  owner=local`, `18:02:11  worker: began  job=ftjob-7p4lURel`."""
    rest = dict(told)
    if event == "request":
        if told["method"] in ("GET", "HEAD") and told["status"] < 400:
            return None
        said = "{method} {path} {status}  {seconds:.3f} s".format(**{name: rest.pop(name) for name in _REQUEST})
    else:
        said = f"{event}: {rest.pop('message')}" if "message" in rest else event
    facts = [f"{name}={value if isinstance(value, str) else _escaped(value)}" for name, value in rest.items()]
    loud = [] if level == "info" else [level.upper()]
    line = "  ".join([now.astimezone().strftime("%H:%M:%S"), *loud, said, *([" ".join(facts)] if facts else [])])
    return line if line.isprintable() else _escaped(line)[1:-1]


def _escaped(value: Any) -> str:
    """JSON, which escapes all control characters but one and all that is not ASCII."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _clean(value: Any) -> Any:
    """Text without secrets and not endless."""
    if isinstance(value, str):
        return masked(value)[:_LONGEST]
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value
