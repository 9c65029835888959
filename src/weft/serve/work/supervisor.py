"""The thread in the server that runs the jobs: takes leases, starts workers, hears them, ends them.

    Supervisor(server).start() … .stop()

One thread does all of it, so that nothing happens to a job twice at the same time. It trusts no worker: words are
checked on arrival, files are taken by fixed names, whoever is silent, too slow to leave or superseded is killed. A job
that lost its worker goes back to the queue, which counts the crashes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.errors import DamageError, ResourceError, Superseded, WeftError
from weft.serve.work.channel import Closed
from weft.serve.work.held import Held, begun, tidy
from weft.serve.work.leftovers import end_leftovers
from weft.serve.work.orders import Orders
from weft.serve.work.protocol import Answer, read_word
from weft.serve.work.workers import Notice, Workers

if TYPE_CHECKING:
    from weft.serve.leases import Lease
    from weft.serve.records import Phase
    from weft.serve.server import Server

TURN_SECONDS = 0.2
TAKE_SECONDS = 0.5
"""How often the queue is asked for work; also at once when a worker ends, or `wake` is called."""
WATCH_SECONDS = 1.0
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
        self._held: dict[str, Held] = {}
        self._to_start: list[Lease] = []
        self._selector = selectors.DefaultSelector()
        self._listening: socket.socket | None = None
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="weft-supervisor", daemon=True)
        self._stopping = threading.Event()
        self._until = 0.0
        self._watched_at = -float("inf")
        self._take_at = 0.0

    def start(self) -> None:
        """End what an earlier server left behind, then work until `stop`. Raises RunError where it does not end."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if ended := end_leftovers(self._folder):
            self._server.log.say("leftovers", level="warn", message=f"ended {ended} processes of an earlier server")
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
        return bool(self._held or self._to_start)

    def processes(self) -> dict[str, int]:
        """The running workers' process ids by job."""
        return {held.job: held.process for held in list(self._held.values()) if held.process is not None}

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._done():
            try:
                for key, _ in self._selector.select(TURN_SECONDS):
                    self._attend(key.data)
                self._turn()
            except Exception as error:  # of one job or of the database: the others go on, leases run out by themselves
                self._server.log.failed("supervisor", error)
                time.sleep(TURN_SECONDS)
        self._workers.close()
        self._selector.close()

    def _done(self) -> bool:
        return self._stopping.is_set() and not self._held and not self._to_start

    def _attend(self, whom: Any) -> None:
        if whom is None:
            self._woken.recv(4096)
            self._take_at = 0.0
        elif isinstance(whom, Held):
            self._hear(whom)
        else:
            self._hear_nursery()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._stopping.is_set():
            self._give_back()
        if now - self._watched_at >= WATCH_SECONDS:
            self._watched_at = now
            self._orders.watch(list(self._held.values()))
        for held in list(self._held.values()):
            self._orders.limit(held, self._until if self._stopping.is_set() else None)
        if self._stopping.is_set():
            if now > self._until + _LAST_SECONDS:
                self._lose_all()
        elif now >= self._take_at:
            self._take_at = now + TAKE_SECONDS
            self._take()
        self._start_ready()

    # ---- beginning -------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Files are looked at beside the training jobs: what is wrong with them is told while others train."""
        places: tuple[tuple[Phase, int], ...] = (("validate", VALIDATING), ("train", self._server.config.slots))
        for phase, most in places:
            while self._at_work(phase) < most:
                lease = self._server.leases.take(f"{socket.gethostname()}:{os.getpid()}", phase=phase)
                if lease is None:
                    break
                self._to_start.append(lease)

    def _at_work(self, phase: Phase) -> int:
        waiting = sum(lease.phase == phase for lease in self._to_start)
        return waiting + sum(held.lease.phase == phase for held in self._held.values())

    def _start_ready(self) -> None:
        """Start what was taken, but never beside an earlier attempt of the same job: that one is ended first."""
        for lease in list(self._to_start):
            earlier = [held for held in self._held.values() if held.job == lease.job.id]
            for held in earlier:
                self._workers.kill(held.name)
            if not earlier:
                self._to_start.remove(lease)
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        try:
            held, theirs, log = begun(self._server, lease, self._folder)
        except (WeftError, OSError) as error:
            said = {"job": lease.job.id, "attempt": lease.attempt, "reason": str(error)}
            self._server.log.say("worker", level="warn", message="cannot be started", **said)
            with contextlib.suppress(Superseded):
                what = "The server could not start a worker."
                self._server.leases.fail(lease.job.id, lease.attempt, "worker_not_started", what, None, True)
            return
        self._held[held.name] = held
        try:
            with theirs:
                self._workers.start(held.name, theirs, log)
            held.channel.send(held.order)
        except (OSError, Closed) as error:
            held.say(self._server.log, "warn", "cannot be started", reason=str(error))
            self._forget(held, "The server could not start a worker.")
            return
        finally:
            os.close(log)
        self._listen_to_nursery()
        self._selector.register(held.channel, selectors.EVENT_READ, held)
        held.say(self._server.log, "info", "began", phase=lease.phase)

    def _listen_to_nursery(self) -> None:
        if self._listening is not self._workers.socket and self._workers.socket is not None:
            self._listening = self._workers.socket
            self._selector.register(self._listening, selectors.EVENT_READ, self._workers)

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def _hear(self, held: Held) -> bool:
        """What a worker says; whether there was anything to hear."""
        try:
            lines = held.channel.lines()
        except Closed:
            self._unregister(held)
            return False
        if lines is None:
            return False
        for line in lines:
            if not held.desk.ended:
                self._answer(held, line)
        return True

    def _answer(self, held: Held, line: bytes) -> None:
        refused = None
        try:
            held.desk.hear(read_word(line))
            if not held.desk.ended:
                self._orders.obey(held, self._server.leases.beat(*held.key))
        except Superseded as error:
            refused, held.desk.ended = str(error), True
        except (DamageError, ResourceError) as error:
            held.say(self._server.log, "warn", "made what cannot be taken", reason=str(error))
            refused = "what it made cannot be taken"
            self._fail(held, "publishing_failed", "What the worker made could not be stored.")
        except ValueError as error:
            held.say(self._server.log, "warn", "broke the protocol", reason=str(error)[:500])
            refused = "not understood"
            self._fail(held, "internal_error", "The worker did not keep to its protocol.")
        try:
            held.channel.send(Answer(refused=refused))
        except Closed:
            refused = "gone"
        if refused is not None:
            self._workers.kill(held.name)

    def _hear_nursery(self) -> None:
        notices = self._workers.notices()
        if notices is None:
            self._lose_all()
            return
        for notice in notices:
            held = self._held.get(notice.name)
            if held is not None and notice.process is not None:
                held.process = notice.process
            else:
                self._ended(notice)

    def _lose_all(self) -> None:
        """There is no nursery any more, and the kernel has ended its workers: none may live on beside the next ones."""
        self._workers.close()
        if self._listening is not None:
            self._selector.unregister(self._listening)
            self._listening = None
        end_leftovers(self._folder)
        for name in list(self._held):
            self._ended(Notice(name))

    def _ended(self, notice: Notice) -> None:
        held = self._held.get(notice.name)
        if held is None:
            return
        while self._hear(held):  # its last words may still lie in the channel
            continue
        how = "was lost" if notice.status is None else f"ended with status {notice.status}"
        if notice.status is not None and notice.status < 0:
            how = f"was killed by signal {-notice.status}"
        if not held.desk.ended and not held.told:
            held.say(self._server.log, "warn", how, output=str(held.log))
        self._forget(held, f"The worker of attempt {held.lease.attempt} {how}.")

    def _forget(self, held: Held, reason: str) -> None:
        """The worker is no more: what that means for its job, where it has not said so itself."""
        self._unregister(held)
        held.channel.close()
        try:
            if not held.desk.ended and held.told:
                held.desk.leave()
            elif not held.desk.ended:
                held.desk.fail("worker_died", reason, again=True)
            if held.desk.succeeded:
                tidy(held.desk.folder)
        except Superseded:
            held.say(self._server.log, "info", "had been superseded")
        finally:
            del self._held[held.name]
            self._take_at = 0.0

    def _fail(self, held: Held, code: str, message: str) -> None:
        try:
            held.desk.fail(code, message, again=True)
        except Superseded:
            held.desk.ended = True

    def _unregister(self, held: Held) -> None:
        if held.channel in self._selector.get_map():
            self._selector.unregister(held.channel)

    # ---- ending ----------------------------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """The server stops: whoever works saves and leaves."""
        self._server.leases.drain()
        while self._to_start:
            lease = self._to_start.pop()
            with contextlib.suppress(Superseded):
                self._server.leases.released(lease.job.id, lease.attempt, "queued")
        for held in self._held.values():
            self._orders.obey(held, "stop")
