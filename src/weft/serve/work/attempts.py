"""The attempts at work: begun from their leases, heard word by word, and what the end of each means for its job.

It trusts no worker: words are checked on arrival, files are taken by fixed names, whoever is superseded is killed. All
of it belongs to the supervisor's thread, so that nothing happens to a job twice at the same time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import DamageError, ResourceError, Superseded, WeftError
from weft.serve.work.channel import Closed
from weft.serve.work.folders import tidy
from weft.serve.work.held import Held, begun
from weft.serve.work.leftovers import end_leftovers
from weft.serve.work.orders import Orders
from weft.serve.work.protocol import Answer, read_word
from weft.serve.work.workers import Notice, Workers

if TYPE_CHECKING:
    from weft.serve.leases import Lease
    from weft.serve.records import Phase
    from weft.serve.server import Server


class Attempts:
    """Those of one server, in `folder`. What they say arrives at `selector`, and `over` is called when one ends."""

    def __init__(
        self,
        server: Server,
        workers: Workers,
        orders: Orders,
        folder: Path,
        selector: selectors.BaseSelector,
        over: Callable[[], None],
    ) -> None:
        self._server, self._workers, self._orders = server, workers, orders
        self._folder, self._selector, self._over = folder, selector, over
        self._listening: socket.socket | None = None
        self._held: dict[str, Held] = {}

    @property
    def all(self) -> list[Held]:
        return list(self._held.values())

    def of(self, job: str) -> list[Held]:
        """Those of one job: at most one that counts."""
        return [held for held in self._held.values() if held.job == job]

    def count(self, phase: Phase) -> int:
        return sum(held.lease.phase == phase for held in self._held.values())

    # ---- beginning -------------------------------------------------------------------------------------------------

    def begin(self, lease: Lease) -> None:
        """Start a worker for `lease`; where that cannot be, the queue hears of it."""
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

    def hear(self, held: Held) -> bool:
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

    def hear_nursery(self) -> None:
        """Which workers began, and which ended."""
        notices = self._workers.notices()
        if notices is None:
            self.lose_all()
            return
        for notice in notices:
            held = self._held.get(notice.name)
            if held is not None and notice.process is not None:
                held.process = notice.process
            else:
                self._ended(notice)

    # ---- ending ----------------------------------------------------------------------------------------------------

    def lose_all(self) -> None:
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
        while self.hear(held):  # its last words may still lie in the channel
            continue
        how = "was lost" if notice.status is None else f"ended with status {notice.status}"
        if notice.status is not None and notice.status < 0:
            how = f"was killed by signal {-notice.status}"
        if held.desk.failed is not None:
            held.say(self._server.log, "warn", "failed", code=held.desk.failed, output=str(held.log))
        elif held.desk.ended or held.told:
            held.say(self._server.log, "info", "ended")
        else:
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
            if self._server.store.jobs.ended([held.job]):
                tidy(held.desk.folder)
        except Superseded:
            held.say(self._server.log, "info", "had been superseded")
        finally:
            del self._held[held.name]
            self._over()

    def _fail(self, held: Held, code: str, message: str) -> None:
        try:
            held.desk.fail(code, message, again=True)
        except Superseded:
            held.desk.ended = True

    def _unregister(self, held: Held) -> None:
        with contextlib.suppress(KeyError, ValueError):  # it was let go before, and its socket may be closed by now
            self._selector.unregister(held.channel)
