"""Fine-tuning jobs as their owners see them: create, look up, wish. What workers do with them is `serve/leases.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select
from sqlalchemy.exc import IntegrityError

from weft.errors import Conflict, NotThere, WrongState
from weft.serve.records import FINAL, Checkpoint, Event, EventDraft, Job, JobDraft, Order, Page, Wish
from weft.serve.store import transitions
from weft.serve.store.files import find_file
from weft.serve.store.ground import Ground
from weft.serve.store.models import may_use
from weft.serve.store.rows import page, record
from weft.serve.store.schema import checkpoints, events, job_metadata, jobs, models, requests

PREFIX = "ftjob-"


class Jobs:
    """Rows of `jobs`, with their events and checkpoints."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def create(
        self, owner: str, draft: JobDraft, idempotency_key: str | None = None, body_sha256: str | None = None
    ) -> Job:
        """A new job, or the one that the same key made with the same body.

        Raises NotThere for a file that is not the owner's or a model that it may not use, Conflict for a key that came
        with another body.
        """
        try:
            with self._ground.database.write() as connection:
                known = _known(connection, owner, idempotency_key, body_sha256)
                return known or self._insert(connection, owner, draft, idempotency_key, body_sha256)
        except IntegrityError:
            # On PostgreSQL the same key can come twice in the same moment; the other one has won.
            known = self.known(owner, idempotency_key, body_sha256)
            if known is None:
                raise
            return known

    def known(self, owner: str, idempotency_key: str | None, body_sha256: str | None) -> Job | None:
        """The job that this key has made already. Raises Conflict where the body was another."""
        with self._ground.database.read() as connection:
            return _known(connection, owner, idempotency_key, body_sha256)

    def get(self, owner: str, id: str) -> Job:
        """Raises NotThere."""
        with self._ground.database.read() as connection:
            return transitions.make_job(_find(connection, owner, id))

    def list(
        self,
        owner: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> Page[Job]:
        """Those with all these pairs of metadata, or with none at all."""
        where = [jobs.c.owner == owner]
        pair = job_metadata.c
        for key, value in (metadata or {}).items():
            where.append(exists().where(pair.job_id == jobs.c.id, pair.key == key, pair.value == value))
        if without_metadata:
            where.append(~exists().where(pair.job_id == jobs.c.id))
        with self._ground.database.read() as connection:
            return page(
                connection, jobs, transitions.make_job, where,
                after=after, limit=limit, order=order, cursor=("job", PREFIX),
            )  # fmt: skip

    def events(
        self, owner: str, id: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> Page[Event]:
        with self._ground.database.read() as connection:
            _find(connection, owner, id)
            return page(
                connection, events, lambda row: record(Event, row), [events.c.job_id == id],
                after=after, limit=limit, order=order, cursor=("event", "ftevent-"),
            )  # fmt: skip

    def event_number(self, owner: str, id: str, after: str) -> int:
        """The number of the event of the id `after`. Raises NotThere."""
        with self._ground.database.read() as connection:
            _find(connection, owner, id)
            number = connection.scalar(select(events.c.number).where(events.c.job_id == id, events.c.id == after))
        if number is None:
            raise NotThere("event", after)
        return number

    def events_since(self, owner: str, id: str, number: int, limit: int = 1000) -> tuple[Event, ...]:
        """What was told after the event of this number, oldest first."""
        query = select(events).where(events.c.job_id == id, events.c.number > number)
        with self._ground.database.read() as connection:
            _find(connection, owner, id)
            rows = connection.execute(query.order_by(events.c.number).limit(limit))
            return tuple(record(Event, row) for row in rows)

    def checkpoints(
        self, owner: str, id: str, *, after: str | None = None, limit: int = 10, order: Order = "desc"
    ) -> Page[Checkpoint]:
        with self._ground.database.read() as connection:
            _find(connection, owner, id)
            return page(
                connection, checkpoints, lambda row: record(Checkpoint, row), [checkpoints.c.job_id == id],
                after=after, limit=limit, order=order, cursor=("checkpoint", "ftckpt_"),
            )  # fmt: skip

    def wish(self, owner: str, id: str, wish: Wish) -> Job:
        """Cancel or pause: at once where no worker holds it, else with the worker's next heartbeat.

        The same wish again changes nothing; a cancel takes the place of a pause. Raises NotThere, WrongState.
        """
        with self._ground.database.write() as connection:
            row = _find(connection, owner, id, hold=True)
            if row.status in FINAL or (wish == "pause" and (row.status == "paused" or row.wish == "cancel")):
                state = "being cancelled" if row.wish else row.status
                raise WrongState(f"Job {id} is {state}: there is nothing to {wish}.", row.status)
            if row.held_by is not None:
                return transitions.change(self._ground, connection, id, wish=wish)
            if wish == "pause":
                told = EventDraft(transitions.ENDED["paused"])
                return transitions.change(self._ground, connection, id, told, status="paused")
            told = EventDraft(transitions.ENDED["cancelled"])
            job = transitions.end(self._ground, connection, id, "cancelled", told)
        self._ground.tidy([row.training_sha256, row.validation_sha256], [row.start_from])
        return job

    def resume(self, owner: str, id: str) -> Job:
        """From paused back into the line; a pause that its worker has not obeyed yet is taken back.

        Raises NotThere, WrongState.
        """
        with self._ground.database.write() as connection:
            row = _find(connection, owner, id, hold=True)
            if row.wish == "pause":
                return transitions.change(self._ground, connection, id, wish=None)
            if row.status != "paused":
                raise WrongState(f"Job {id} is {row.status}: only a paused job can be resumed.", row.status)
            status = "queued" if row.validated else "validating_files"
            return transitions.change(self._ground, connection, id, EventDraft("The job was resumed"), status=status)

    def active(self, owner: str) -> int:
        """How many are waiting or running: what the limit of concurrent jobs counts."""
        waiting = jobs.c.status.in_(("validating_files", "queued", "running"))
        with self._ground.database.read() as connection:
            return connection.scalar(select(func.count()).where(jobs.c.owner == owner, waiting)) or 0

    def counts(self) -> dict[str, int]:
        """How many jobs of all owners are in each state."""
        with self._ground.database.read() as connection:
            rows = connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status))
            return {status: count for status, count in rows}

    def ended(self, ids: Collection[str]) -> set[str]:
        """Which of these are in a final state, whoever owns them."""
        with self._ground.database.read() as connection:
            return set(connection.scalars(select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.status.in_(FINAL))))

    def _insert(
        self, connection: Connection, owner: str, draft: JobDraft, key: str | None, body_sha256: str | None
    ) -> Job:
        training = find_file(self._ground, connection, owner, draft.training_file)
        validation = (
            find_file(self._ground, connection, owner, draft.validation_file) if draft.validation_file else None
        )
        if draft.start_from is not None and not connection.scalar(
            select(exists().where(may_use(owner), models.c.adapter == draft.start_from))
        ):
            raise NotThere("model", draft.model)
        id, now = self._ground.minter.id(PREFIX), self._ground.now()
        values = dataclasses.asdict(draft) | {"id": id, "owner": owner, "created_at": now, "status": "validating_files"}
        values |= {"training_sha256": training.sha256, "validation_sha256": validation.sha256 if validation else None}
        values |= {"result_files": (), "attempt": 0, "crashes": 0, "validated": False, "told": 0, "last_step": -1}
        connection.execute(jobs.insert().values(**values))
        if draft.metadata:
            pairs = [{"job_id": id, "key": key, "value": value} for key, value in draft.metadata.items()]
            connection.execute(job_metadata.insert(), pairs)
        if key is not None:
            used = {"owner": owner, "key": key, "body_sha256": body_sha256 or "", "job_id": id, "created_at": now}
            connection.execute(requests.insert().values(**used))
        also = f" and validation file: {draft.validation_file}" if draft.validation_file else ""
        told = f"Created fine-tuning job: {id}", f"Validating training file: {draft.training_file}{also}"
        return transitions.change(self._ground, connection, id, *map(EventDraft, told), status="validating_files")


def _find(connection: Connection, owner: str, id: str, *, hold: bool = False) -> Row[Any]:
    query = select(jobs).where(jobs.c.id == id, jobs.c.owner == owner)
    row = connection.execute(query.with_for_update() if hold else query).first()
    if row is None:
        raise NotThere("job", id)
    return row


def _known(connection: Connection, owner: str, key: str | None, body_sha256: str | None) -> Job | None:
    if key is None:
        return None
    used = connection.execute(select(requests).where(requests.c.owner == owner, requests.c.key == key)).first()
    if used is None:
        return None
    if used.body_sha256 != (body_sha256 or ""):
        raise Conflict(
            f"Idempotency-Key {key[:80]!r} was used before with another body. Send the same body, or a new key."
        )
    return transitions.make_job(_find(connection, owner, used.job_id))


def forget_requests(connection: Connection, before: int) -> None:
    """Drop the idempotency keys of requests before that time."""
    connection.execute(requests.delete().where(requests.c.created_at < before))
