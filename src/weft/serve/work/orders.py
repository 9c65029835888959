"""What running workers are told: to leave, where the owner or the server wishes it; and who must end without a word.

To leave is one signal (SIGTERM): save between two steps, say so, exit. Who takes too long over it is killed.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from weft.errors import NotThere, Superseded
from weft.serve.work.held import Held
from weft.serve.work.workers import Workers

if TYPE_CHECKING:
    from weft.serve.server import Server

GRACE_SECONDS = {"cancel": 4.0, "pause": 60.0, "stop": float("inf")}
"""How long a worker may take to save and leave before it is killed; `stop` goes by the server's own patience."""


class Orders:
    """Orders and limits of one server's workers."""

    def __init__(self, server: Server, workers: Workers) -> None:
        self._server, self._workers = server, workers

    def watch(self, helds: Collection[Held]) -> None:
        """Look for leases that ran out, and for what owners asked of running jobs since the last heartbeat."""
        for held in helds:
            if held.process is None:  # the nursery is still importing: nobody could beat yet
                self._beat_for(held)
        lost = set(self._server.leases.expire())
        for held in helds:
            if held.desk.ended:
                continue
            if held.job in lost:
                held.say(self._server.log, "warn", "was silent for too long", output=str(held.log))
                self.end(held)
            else:
                self.obey(held, self._wish(held))

    def obey(self, held: Held, order: str) -> None:
        """Pass on what a heartbeat was answered: `go`, or one of GRACE_SECONDS. A cancellation overrules the others."""
        if order not in GRACE_SECONDS or held.told in (order, "cancel"):
            return
        held.told, held.told_at = order, time.monotonic()
        self._workers.term(held.name)

    def limit(self, held: Held, stopping_until: float | None) -> None:
        """End whoever does not leave in time, or works for longer than a job may."""
        now, hours = time.monotonic(), self._server.config.job_hours
        if held.told is not None:
            until = held.told_at + GRACE_SECONDS[held.told]
            if now > (until if stopping_until is None else min(until, stopping_until)):
                self._workers.kill(held.name)
        elif hours is not None and now > held.began + 3600 * hours and not held.desk.ended:
            try:
                held.desk.fail("time_limit", f"The job ran for more than {hours:g} hours.", again=False)
            except Superseded:
                held.say(self._server.log, "info", "had been superseded")
            self.end(held)

    def end(self, held: Held) -> None:
        """Kill a worker whose attempt is over for the queue: nothing that it still says counts."""
        held.desk.ended = True
        self._workers.kill(held.name)

    def _beat_for(self, held: Held) -> None:
        try:
            self._server.leases.beat(*held.key)
        except Superseded:
            self.end(held)

    def _wish(self, held: Held) -> str:
        try:
            return self._server.store.jobs.get(held.lease.job.owner, held.job).wish or "go"
        except NotThere:
            return "cancel"
