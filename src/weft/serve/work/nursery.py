"""The process that every worker is forked from: libraries are imported once, an attempt starts in milliseconds.

It reads no data, keeps no thread (a fork copies none) and answers to its server alone, through a socket whose messages
keep their borders (SOCK_SEQPACKET):

    {"start": NAME} with a channel and a log file      {"started": NAME, "process": N}
    {"term": NAME}, {"kill": NAME}                     a signal to the worker, the end of its whole process group
                                                       {"ended": NAME, "status": N}     negative: the signal's number

A worker is awaited only after its group was killed, so its number cannot mean another process meanwhile. When the
server ends, however it ends, the kernel ends this process, and with it the workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from weft.serve.work.confine import die_with

_MOST = 4096


def main(end: socket.socket, server: int) -> None:
    """Serve `server` (a process id) until it closes its end."""
    die_with(server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then says what is to happen
    _import_once()
    Nursery(end).serve()


def _import_once() -> None:
    """What every worker needs, so that none of them imports it."""
    from transformers import PreTrainedTokenizerFast  # noqa: F401

    import weft.serve.work.worker  # noqa: F401


class Nursery:
    """The workers that run, by name."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._running: dict[int, str] = {}

    def serve(self) -> None:
        ended, tell = os.pipe()
        os.set_blocking(tell, False)
        os.set_blocking(ended, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._end, ended], [], [])
            if ended in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(ended, _MOST)
                self._await()
            if self._end in ready and not self._serve_one():
                return

    def _serve_one(self) -> bool:
        """Whether there is a server still."""
        try:
            message, handles, _, _ = socket.recv_fds(self._end, _MOST, 2)
        except OSError:
            return False
        if not message:
            return False
        asked = json.loads(message)
        if "start" in asked:
            self._start(asked["start"], *handles)
        elif "term" in asked:
            self._signal(asked["term"], os.kill, signal.SIGTERM)
        elif "kill" in asked:
            self._signal(asked["kill"], os.killpg, signal.SIGKILL)
        return True

    def _start(self, name: str, channel: int, log: int) -> None:
        nursery = os.getpid()
        try:
            process = os.fork()
        except OSError as error:
            os.close(channel)
            os.close(log)
            self._tell(ended=name, status=error.errno or 1)
            return
        if process == 0:
            self._end.close()
            _be_worker(nursery, channel, log)
        os.close(channel)
        os.close(log)
        with contextlib.suppress(OSError):
            os.setpgid(process, process)  # as the worker does itself: whoever comes first
        self._running[process] = name
        self._tell(started=name, process=process)

    def _signal(self, name: str, send: Any, number: int) -> None:
        for process, known in self._running.items():
            if known == name:
                with contextlib.suppress(ProcessLookupError):
                    send(process, number)

    def _await(self) -> None:
        """Tell of the workers that ended, and end what they leave behind."""
        for process in list(self._running):
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            self._tell(ended=self._running.pop(process), status=os.waitstatus_to_exitcode(status))

    def _tell(self, **fact: Any) -> None:
        with contextlib.suppress(OSError):  # the server is gone: the next read says so
            self._end.send(json.dumps(fact).encode())


def _be_worker(nursery: int, channel: int, log: int) -> None:
    """In the fork: leave the nursery's group and ears, work, and end without what belongs to the nursery."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(nursery)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        # Its own: what the nursery had not yet written must not be written twice.
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
        from weft.serve.work.worker import work

        status = work(socket.socket(fileno=channel))
    except BaseException as error:
        print(f"worker: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
