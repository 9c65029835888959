"""The state machine of jobs: every change of state is made here, in its caller's transaction, with its numbered event.

    create → validating_files → queued → running → succeeded | failed | cancelled
             paused: from the first three, and back to where it was in the line

A job that a worker holds has `held_by`; only then can it have a `wish`. Final is final. The messages are those of the
hosted service where it has one; scripts match on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from weft.errors import Superseded
from weft.serve.records import FINAL, Event, EventDraft, Job
from weft.serve.store.ground import Ground
from weft.serve.store.rows import record
from weft.serve.store.schema import checkpoints, events, jobs

WAITING = ("validating_files", "queued")
ENDED = {"cancelled": "The job was cancelled", "paused": "The job was paused"}


def make_job(row: Row[Any]) -> Job:
    return record(Job, row)


def locked(connection: Connection, id: str) -> Row[Any] | None:
    """The row of a job, for this transaction alone."""
    return connection.execute(select(jobs).where(jobs.c.id == id).with_for_update()).first()


def held(connection: Connection, id: str, attempt: int, *, alone: bool = True) -> Row[Any]:
    """The row, if this attempt is the one that counts, locked unless it is only to be read. Raises Superseded."""
    row = locked(connection, id) if alone else connection.execute(select(jobs).where(jobs.c.id == id)).first()
    if row is None:
        raise Superseded(f"Job {id}: does not exist. Leave it.")
    if row.status in FINAL:
        raise Superseded(f"Job {id}: is {row.status}; attempt {attempt} comes too late. Leave it.")
    if row.attempt != attempt:
        raise Superseded(f"Job {id}: attempt {row.attempt} is the newest; {attempt} no longer counts. Leave it.")
    if row.held_by is None:
        raise Superseded(f"Job {id}: the lease of attempt {attempt} ran out. Leave it.")
    return row


def tell(ground: Ground, connection: Connection, id: str, drafts: Sequence[EventDraft]) -> tuple[Event, ...]:
    """Number the events and write them. The counter's row is what makes numbers gapless under many writers."""
    if not drafts:
        return ()
    last = connection.execute(
        jobs.update().where(jobs.c.id == id).values(told=jobs.c.told + len(drafts)).returning(jobs.c.told)
    ).scalar_one()
    now = ground.now()
    made = tuple(
        Event(ground.minter.id("ftevent-"), id, number, now, draft.level, draft.message, draft.type, draft.data)
        for number, draft in enumerate(drafts, last - len(drafts) + 1)
    )
    names = [column.name for column in events.c]
    connection.execute(events.insert(), [{name: getattr(event, name) for name in names} for event in made])
    return made


def change(ground: Ground, connection: Connection, id: str, *drafts: EventDraft, **values: Any) -> Job:
    """Set columns, tell the events; the job as it is now."""
    connection.execute(jobs.update().where(jobs.c.id == id).values(**values))
    tell(ground, connection, id, drafts)
    row = locked(connection, id)
    if row is None:  # jobs are never deleted
        raise Superseded(f"Job {id}: does not exist.")
    return make_job(row)


def end(ground: Ground, connection: Connection, id: str, status: str, *drafts: EventDraft, **values: Any) -> Job:
    """Into a final state; now it is known which checkpoints stay, and they are told of."""
    drafts = (*_checkpoints_kept(connection, id, values.get("fine_tuned_model")), *drafts)
    values = {"finished_at": ground.now(), "estimated_finish": None, "held_by": None, "wish": None, **values}
    return change(ground, connection, id, *drafts, status=status, **values)


def _checkpoints_kept(connection: Connection, id: str, model: str | None) -> list[EventDraft]:
    """In the order of their steps; the one that carries the name of the `model` itself has an event of its own."""
    query = select(checkpoints).where(checkpoints.c.job_id == id, checkpoints.c.model != (model or ""))
    kept = connection.execute(query.order_by(checkpoints.c.step)).all()
    return [EventDraft(f"Checkpoint created at step {row.step} with Snapshot ID: {row.model}") for row in kept]


def let_go(ground: Ground, connection: Connection, row: Row[Any], *drafts: EventDraft, **values: Any) -> Job:
    """A worker is done with it, well or not: to where its owner wished it, else back into the line."""
    if row.wish == "cancel":
        cancelled = EventDraft(ENDED["cancelled"])
        return end(ground, connection, row.id, "cancelled", *drafts, cancelled, **values)
    values = {"held_by": None, "wish": None, "estimated_finish": None, **values}
    if row.wish == "pause":
        return change(ground, connection, row.id, *drafts, EventDraft(ENDED["paused"]), status="paused", **values)
    waits = "queued" if values.get("validated", row.validated) else "validating_files"
    return change(ground, connection, row.id, *drafts, status=waits, **values)


def next_in_line(connection: Connection, validated: bool | None = None) -> Row[Any] | None:
    """The job to take next, locked: of the owner who has the fewest at work, then the oldest.

    `validated`: only those whose files are known to be good, or only the others.
    """
    waits = [jobs.c.held_by.is_(None), jobs.c.status.in_(WAITING)]
    if validated is not None:
        waits.append(jobs.c.validated.is_(validated))
    at_work = select(jobs.c.owner, func.count()).where(jobs.c.held_by.is_not(None)).group_by(jobs.c.owner)
    many = {owner: count for owner, count in connection.execute(at_work)}
    oldest = connection.execute(select(jobs.c.owner, func.min(jobs.c.id)).where(*waits).group_by(jobs.c.owner)).all()
    for _, id in sorted(oldest, key=lambda found: (many.get(found[0], 0), found[1])):
        # Whoever has it locked is taking or cancelling it; two that wait while they lock others would wait for ever.
        row = connection.execute(select(jobs).where(jobs.c.id == id, *waits).with_for_update(skip_locked=True)).first()
        if row is not None:
            return row
    return None


def recover(ground: Ground) -> int:
    """At start no worker is alive: held jobs go back, their attempts kept, and no crash is counted; how many."""
    with ground.database.write() as connection:
        rows = connection.execute(select(jobs).where(jobs.c.held_by.is_not(None)).with_for_update()).all()
        again = EventDraft("The server was restarted; the job goes on from its last checkpoint", level="warn")
        for row in rows:
            let_go(ground, connection, row, *([again] if row.status == "running" else []))
    return len(rows)
