"""The benchmark's side of a contestant: start its process, ask it one thing at a time, stop it.

One JSON object per line each way. A contestant that dies or says `error` raises RunError with the last words of its
log, one that takes too long TimeoutError; either way its process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.errors import RunError


class Worker:
    """A running contestant; `name` for messages, `log` for what it prints."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self.started = time.perf_counter()
        self._buffer = b""
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **environment},
                start_new_session=True,  # compilers that it starts end with it
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, limit: float | None = None, **command: Any) -> dict[str, Any]:
        """The answer to one command; `limit` in seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its last words are read below
            self._process.stdin.write((json.dumps(command) + "\n").encode())
            self._process.stdin.flush()
        answer = json.loads(self._line(limit))
        if "error" in answer:
            self.close()
            raise RunError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _line(self, limit: float | None) -> bytes:
        assert self._process.stdout is not None
        until = None if limit is None else time.monotonic() + limit
        while b"\n" not in self._buffer:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                self.close()
                raise TimeoutError(f"no answer within {limit:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                self.close()
                raise RunError(f"{self.name}: its process ended (exit {self._process.returncode}). {self._last()}")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"Its last words: {lines[-1][:300]}" if lines else "It said nothing."
