"""The thread in the server that runs the jobs: takes leases, has attempts begun and heard, ends whom it must.

    Supervisor(server).start() … .stop()

One thread does all of it. Whoever is silent, too slow to leave or superseded is killed, and a job that lost its worker
goes back to the queue, which counts the crashes. What workers say and leave behind is the affair of `attempts.py`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.errors import ResourceError, Superseded
from weft.serve.work.attempts import Attempts
from weft.serve.work.folders import empty_scratch, tidy, untidy
from weft.serve.work.held import Held
from weft.serve.work.leftovers import end_leftovers
from weft.serve.work.names import SCRATCH
from weft.serve.work.orders import Orders
from weft.serve.work.workers import Workers

if TYPE_CHECKING:
    from weft.serve.leases import Lease
    from weft.serve.records import Phase
    from weft.serve.server import Server

TURN_SECONDS = 0.2
TAKE_SECONDS = 0.5
"""How often the queue is asked for work; also at once when a worker ends, or `wake` is called."""
WATCH_SECONDS = 1.0
TIDY_SECONDS = 60.0
"""How often folders of jobs that ended without a worker (cancelled while they waited or rested) are looked for."""
COMPLAIN_SECONDS = 30.0
"""How often the log hears of the same trouble."""
VALIDATING = 1
"""Jobs whose files are looked at together."""
_LAST_SECONDS = 2.0
"""How long a stopping server waits for killed workers to be told of."""


class Supervisor:
    """The jobs of one server. `workers` is for tests: another way to start processes."""

    def __init__(self, server: Server, workers: Workers | None = None) -> None:
        self._server = server
        self._folder = Path(server.store.data).resolve() / "work"
        self._workers = workers or Workers(self._folder)
        self._orders = Orders(server, self._workers)
        self._to_start: list[Lease] = []
        self._selector = selectors.DefaultSelector()
        self._attempts = Attempts(server, self._workers, self._orders, self._folder, self._selector, self._look_soon)
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="weft-supervisor", daemon=True)
        self._stopping = threading.Event()
        self._until = 0.0
        self._watched_at = self._tidied_at = -float("inf")
        self._take_at = 0.0
        self._complaint: tuple[type[Exception], str | None] | None = None
        self._complained_at = 0.0

    def start(self) -> None:
        """End what an earlier server left behind, then work until `stop`. Raises RunError where it does not end."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if ended := end_leftovers(self._folder):
            self._server.log.say("leftovers", level="warn", message=f"ended {ended} processes of an earlier server")
        empty_scratch(self._folder)
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread.start()

    def stop(self, patience: float | None = None) -> None:
        """Let the workers save and leave, `patience` seconds long (default: the server's), then end them."""
        self._until = time.monotonic() + (self._server.config.drain_seconds if patience is None else patience)
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look for work now. From any thread."""
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"!")

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether there is a worker, or one that just ended and is not put away yet."""
        return bool(self._attempts.all or self._to_start)

    def processes(self) -> dict[str, int]:
        """The running workers' process ids by job."""
        return {held.job: held.process for held in self._attempts.all if held.process is not None}

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._stopping.is_set() and not self.busy):
            try:
                for key, _ in self._selector.select(TURN_SECONDS):
                    self._attend(key.data)
                self._turn()
            except Exception as error:  # of one job or of the database: the others go on, leases run out by themselves
                self._complain(error)
                time.sleep(TURN_SECONDS)
        self._workers.close()
        self._selector.close()
        shutil.rmtree(self._folder / SCRATCH, ignore_errors=True)

    def _attend(self, whom: Any) -> None:
        if whom is None:
            self._woken.recv(4096)
            self._look_soon()
        elif isinstance(whom, Held):
            self._attempts.hear(whom)
        else:
            self._attempts.hear_nursery()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._stopping.is_set():
            self._give_back()
        if now - self._watched_at >= WATCH_SECONDS:
            self._watched_at = now
            self._orders.watch(self._attempts.all)
        for held in self._attempts.all:
            self._orders.limit(held, self._until if self._stopping.is_set() else None)
        if self._stopping.is_set():
            if now > self._until + _LAST_SECONDS:
                self._attempts.lose_all()
        elif now >= self._take_at:
            self._take_at = now + TAKE_SECONDS
            self._take()
        self._start_ready()
        if now - self._tidied_at >= TIDY_SECONDS:
            self._tidied_at = now
            self._tidy()

    def _complain(self, error: Exception) -> None:
        """Into the log; the same thing only now and then, for a database that is gone is missed by every turn."""
        reason = str(error) if isinstance(error, ResourceError) else None
        now, what = time.monotonic(), (type(error), reason)
        if what != self._complaint or now >= self._complained_at + COMPLAIN_SECONDS:
            self._complaint, self._complained_at = what, now
            self._server.log.failed("supervisor", error, reason=reason)

    def _look_soon(self) -> None:
        self._take_at = 0.0

    # ---- what is taken, given back, put away -----------------------------------------------------------------------

    def _take(self) -> None:
        """Files are looked at beside the training jobs: what is wrong with them is told while others train."""
        places: tuple[tuple[Phase, int], ...] = (("validate", VALIDATING), ("train", self._server.config.slots))
        for phase, most in places:
            while self._attempts.count(phase) + sum(lease.phase == phase for lease in self._to_start) < most:
                lease = self._server.leases.take(f"{socket.gethostname()}:{os.getpid()}", phase=phase)
                if lease is None:
                    break
                self._to_start.append(lease)

    def _start_ready(self) -> None:
        """Start what was taken, but never beside an earlier attempt of the same job: that one is ended first."""
        for lease in list(self._to_start):
            earlier = self._attempts.of(lease.job.id)
            for held in earlier:
                self._workers.kill(held.name)
            if not earlier:
                self._to_start.remove(lease)
                self._attempts.begin(lease)

    def _give_back(self) -> None:
        """The server stops: whoever works saves and leaves."""
        self._server.leases.drain()
        while self._to_start:
            lease = self._to_start.pop()
            with contextlib.suppress(Superseded):
                self._server.leases.released(lease.job.id, lease.attempt)
        for held in self._attempts.all:
            self._orders.obey(held, "stop")

    def _tidy(self) -> None:
        """Let go of what jobs hold that have ended, this one's and those of an earlier server."""
        at_work = {held.job for held in self._attempts.all}
        for job in self._server.store.jobs.ended(untidy(self._folder)) - at_work:
            tidy(self._folder / job)
