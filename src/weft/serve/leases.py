"""The queue as workers see it: take a job, tell how it goes, end it.

A worker takes a *lease* with a rising attempt number and names both in every call. A call whose attempt is not the
newest, whose lease ran out, or whose job has ended raises Superseded and changes nothing: a frozen worker that wakes up
late can do no harm. Attempts and states are in the database, each change one transaction with its numbered event;
until when a lease lasts is in memory, on a monotonic clock, so a heartbeat costs no commit and no wall clock counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from weft.errors import Superseded, UsageError, WrongState
from weft.serve.records import (
    FINAL,
    Checkpoint,
    Event,
    EventDraft,
    EventType,
    Job,
    Level,
    Phase,
)
from weft.serve.store import Store
from weft.serve.store.deadlines import Deadlines
from weft.serve.store.results import Results
from weft.serve.store.schema import jobs
from weft.serve.store.transitions import change, end, held, let_go, next_in_line, tell

Answer = Literal["go", "cancel", "pause", "stop"]

DIED = "worker_died"
"""The error code of a job whose workers were lost again and again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's hold on a job. The hashes say what to learn from, whatever became of the files' names meanwhile."""

    job: Job
    attempt: int
    phase: Phase
    training_sha256: str
    validation_sha256: str | None
    last_step: int
    """Of the metrics told so far, -1 before the first; they are not told twice."""


class Leases:
    """The leases of one server. `seconds` without a heartbeat end one; after `crashes` lost workers the job fails."""

    def __init__(
        self, store: Store, *, seconds: float = 20.0, crashes: int = 3, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ground = store.ground
        self._results = Results(store.ground)
        self._crashes, self._clock = crashes, clock
        self._deadlines = Deadlines(seconds)
        self._draining = False

    def take(self, worker: str, now: float | None = None, phase: Phase | None = None) -> Lease | None:
        """The next job: of the owner who has the fewest at work, then the oldest. None where nothing waits.

        `phase`: only a job that waits for this.
        """
        if self._draining:
            return None
        with self._ground.database.write() as connection:
            row = next_in_line(connection, None if phase is None else phase == "train")
            if row is None:
                return None
            attempt, phase = row.attempt + 1, "train" if row.validated else "validate"
            values: dict[str, Any] = {"attempt": attempt, "held_by": worker}
            told = []
            if phase == "train":
                again = f"Fine-tuning job started again (attempt {attempt})"
                told = [EventDraft("Fine-tuning job started" if row.started_at is None else again)]
                values |= {"status": "running", "started_at": row.started_at or self._ground.now()}
            job = change(self._ground, connection, row.id, *told, **values)
        self._deadlines.begin(job.id, attempt, self._at(now))
        return Lease(job, attempt, phase, row.training_sha256, row.validation_sha256, row.last_step)

    def beat(self, job_id: str, attempt: int, now: float | None = None) -> Answer:
        """Keep the lease; what the worker is to do. Other than `go`: save, then release it. Raises Superseded."""
        with self._ground.database.read() as connection:
            row = held(connection, job_id, attempt, alone=False)
        self._deadlines.renew(job_id, attempt, self._at(now))
        return row.wish or ("stop" if self._draining else "go")

    def drain(self) -> None:
        """Give no job away any more, and tell every worker to save and stop."""
        self._draining = True

    def validated(self, job_id: str, attempt: int) -> Job:
        """The files are good: into the queue. Raises Superseded."""
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            _expect(row, "validating_files", "validated")
            told = EventDraft("Files validated, moving job to queued state")
            job = let_go(self._ground, connection, row, told, validated=True)
        return self._over(job, row)

    def event(
        self,
        job_id: str,
        attempt: int,
        level: Level,
        message: str,
        type: EventType = "message",
        data: dict[str, Any] | None = None,
    ) -> Event | None:
        """Tell one thing; None where it is a metrics event that was told before. Raises Superseded."""
        told = self.events(job_id, attempt, [EventDraft(message, level, type, data)])
        return told[0] if told else None

    def events(self, job_id: str, attempt: int, drafts: Sequence[EventDraft]) -> tuple[Event, ...]:
        """Tell many things in one commit. Metrics of a step that was told before are left out. Raises Superseded."""
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            last, fresh = row.last_step, []
            for draft in drafts:
                step = (draft.data or {}).get("step") if draft.type == "metrics" else None
                if isinstance(step, int):
                    if step <= last:
                        continue
                    last = step
                fresh.append(draft)
            if last != row.last_step:
                connection.execute(jobs.update().where(jobs.c.id == job_id).values(last_step=last))
            return tell(self._ground, connection, job_id, fresh)

    def settled(
        self,
        job_id: str,
        attempt: int,
        hyperparameters: dict[str, Any],
        estimated_finish: int | None,
        *,
        base_sha256: str | None = None,
    ) -> Job:
        """What `auto` became, and when it will be done; as often as either changes. Raises Superseded."""
        values: dict[str, Any] = {"hyperparameters": hyperparameters, "estimated_finish": estimated_finish}
        if base_sha256 is not None:
            values["base_sha256"] = base_sha256
        with self._ground.database.write() as connection:
            held(connection, job_id, attempt)
            return change(self._ground, connection, job_id, **values)

    def checkpoint(
        self, job_id: str, attempt: int, step: int, metrics: dict[str, Any], adapter: str
    ) -> Checkpoint | None:
        """An adopted adapter answers under a name of its own; the last three stay. The same step again: the same one.

        Raises Superseded, and UsageError for an
        adapter that was not adopted.
        """
        self._expect_adopted(adapter)
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            _expect(row, "running", "checkpointed")
            checkpoint, dropped = self._results.checkpoint(connection, row, step, metrics, adapter)
        self._ground.blobs.pins.release(adapter)
        self._ground.tidy(adapters=[*dropped, adapter])
        return checkpoint

    def finish(
        self,
        job_id: str,
        attempt: int,
        adapter: str,
        trained_tokens: int,
        result_csv_sha256: str,
        size: int,
        *,
        step: int | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> Job:
        """Publish the adapter and the result file and end the job, in one transaction.

        `step` and `metrics` are those of the published checkpoint, which carries the model's own name. A job that
        its owner asked to cancel before this ends cancelled, with nothing published. Raises Superseded, UsageError.
        """
        self._expect_adopted(adapter)
        dropped: list[str] = []
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            _expect(row, "running", "finished")
            if row.wish == "cancel":
                job = let_go(self._ground, connection, row)
            else:
                done = (adapter, trained_tokens, result_csv_sha256, size)
                job, dropped = self._results.publish(connection, row, *done, step, metrics or {})
        self._ground.blobs.pins.release(adapter)
        self._ground.blobs.pins.release(result_csv_sha256)
        return self._over(job, row, [adapter, *dropped], [result_csv_sha256])

    def fail(
        self, job_id: str, attempt: int, code: str, message: str, param: str | None = None, again: bool = False
    ) -> Job:
        """It went wrong: for good, or with `again` back into the line until workers were lost too often.

        Raises Superseded.
        """
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            job = self._failed(connection, row, {"code": code, "message": message, "param": param}, again)
        return self._over(job, row)

    def released(self, job_id: str, attempt: int) -> Job:
        """The worker saved and let go: paused or cancelled if its owner wishes so by now, else back into the line.

        Raises Superseded.
        """
        with self._ground.database.write() as connection:
            row = held(connection, job_id, attempt)
            job = let_go(self._ground, connection, row)
        return self._over(job, row)

    def expire(self, now: float | None = None) -> list[str]:
        """End the leases without a heartbeat; the jobs that lost their worker."""
        with self._ground.database.read() as connection:
            rows = connection.execute(select(jobs.c.id, jobs.c.attempt).where(jobs.c.held_by.is_not(None))).all()
        lost = []
        for id, attempt in self._deadlines.over([(id, attempt) for id, attempt in rows], self._at(now)):
            try:
                self.fail(id, attempt, DIED, "The worker stopped answering.", again=True)
                lost.append(id)
            except Superseded:
                self._deadlines.end(id, attempt)
        return lost

    def _failed(self, connection: Connection, row: Row[Any], error: dict[str, Any], again: bool) -> Job:
        crashes = row.crashes + 1 if again else row.crashes
        if again and crashes < self._crashes:
            waits = f"{error['message']} The job is queued again (crash {crashes} of {self._crashes})"
            return let_go(self._ground, connection, row, EventDraft(waits, level="warn"), crashes=crashes)
        if row.wish == "cancel":
            return let_go(self._ground, connection, row, crashes=crashes)
        told = EventDraft(f"The job failed: {error['message']}", level="error")
        return end(self._ground, connection, row.id, "failed", told, error=error, crashes=crashes)

    def _expect_adopted(self, adapter: str) -> None:
        if not self._ground.blobs.adapter(adapter).is_dir():
            raise UsageError(f"Adapter {adapter}: was not adopted. Hand its folder to `blobs.adopt_adapter` first.")

    def _over(self, job: Job, row: Row[Any], adapters: Sequence[str] = (), content: Sequence[str] = ()) -> Job:
        """After the commit: forget the lease, and what a job that ended needed."""
        self._deadlines.end(job.id, row.attempt)
        if job.status in FINAL:
            self._ground.tidy([row.training_sha256, row.validation_sha256, *content], [row.start_from, *adapters])
        return job

    def _at(self, now: float | None) -> float:
        return self._clock() if now is None else now


def _expect(row: Row[Any], status: str, what: str) -> None:
    if row.status != status:
        raise WrongState(f"Job {row.id} is {row.status}: only a {status} job can be {what}.", row.status)
