"""The server's hold on its workers: start the nursery, ask it for workers, signal them, hear of their ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weft.serve.work.confine import environment

_MOST = 4096
_PATIENCE_SECONDS = 1.0

Begin = Callable[[socket.socket, Path], Callable[[], None]]
"""Makes the nursery's process listen to a socket, in a folder; what it gives back awaits the process's end."""


@dataclass(frozen=True)
class Notice:
    """What the nursery tells: a worker runs as `process`, or it `ended` with a status (negative: a signal)."""

    name: str
    process: int | None = None
    status: int | None = None


class Workers:
    """The nursery of one server, seen from it. A nursery that is gone is begun anew with the next `start`.

    All of it belongs to one thread: on Linux the nursery ends with the thread that began it.
    """

    def __init__(self, folder: Path, begin: Begin | None = None) -> None:
        """`folder`: where the workers' folders are, and where the nursery may write."""
        self._folder, self._begin = folder, begin or executed
        self._end: socket.socket | None = None
        self._awaited: Callable[[], None] = lambda: None

    @property
    def socket(self) -> socket.socket | None:
        """Readable when there are notices; None while there is no nursery."""
        return self._end

    def start(self, name: str, channel: socket.socket, log: int) -> None:
        """A worker with this end of a channel and this log file. Raises OSError where there can be none."""
        if self._end is None:
            self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._awaited = self._begin(theirs, self._folder)
        socket.send_fds(self._end, [json.dumps({"start": name}).encode()], [channel.fileno(), log])

    def term(self, name: str) -> None:
        """Ask a worker to save and leave."""
        self._ask(term=name)

    def kill(self, name: str) -> None:
        """End a worker and all that it started."""
        self._ask(kill=name)

    def notices(self) -> list[Notice] | None:
        """What has been told since the last call; None where the nursery is gone, and with it every worker."""
        if self._end is None:
            return []
        self._end.setblocking(False)
        told = []
        try:
            while message := self._end.recv(_MOST):
                fact = json.loads(message)
                name = fact.get("started") or fact["ended"]
                told.append(Notice(name, fact.get("process"), fact.get("status")))
            gone = True
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        self._end.setblocking(True)
        if gone and not told:
            self.close()
            return None
        return told

    def close(self) -> None:
        """End the nursery, and with it every worker."""
        if self._end is not None:
            self._end.close()
            self._end = None
            self._awaited()

    def _ask(self, **request: str) -> None:
        if self._end is not None:
            try:
                self._end.send(json.dumps(request).encode())
            except OSError:
                return  # it is gone; `notices` says so


def executed(theirs: socket.socket, folder: Path) -> Callable[[], None]:
    """A nursery that is a program of its own, with nothing of this process's environment but the allow-list."""
    handle = os.open(folder / "nursery.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        command = [sys.executable, "-P", "-m", "weft.serve.work.nursery", str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(str(folder), os.environ),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(handle)

    def await_end() -> None:
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return await_end
