"""Looks for damage and names each: content that is gone or differs, what lies about, rows that point nowhere.

Nothing is mended here. Content that was put a moment ago and is not named yet is no damage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, func, select

from weft.errors import DamageError, WeftError
from weft.serve.records import FINAL
from weft.serve.store.database import NAME
from weft.serve.store.folder import FOLDERS, MARK
from weft.serve.store.ground import ADAPTERS, CONTENT, Ground, named
from weft.serve.store.keeping import KEEP
from weft.serve.store.pins import LIFE_SECONDS
from weft.serve.store.schema import (
    checkpoints,
    events,
    files,
    job_metadata,
    jobs,
    models,
    parts,
    permissions,
    requests,
    uploads,
)

_POINTERS: tuple[tuple[Column[Any], Column[Any]], ...] = (
    (parts.c.upload_id, uploads.c.id),
    (events.c.job_id, jobs.c.id),
    (checkpoints.c.job_id, jobs.c.id),
    (checkpoints.c.model, models.c.id),
    (models.c.job_id, jobs.c.id),
    (permissions.c.model, models.c.id),
    (requests.c.job_id, jobs.c.id),
    (job_metadata.c.job_id, jobs.c.id),
)
"""Columns that name a row of another table, and which."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it should be: `kind` a word, `where` a path or row, `message` what was found."""

    kind: str
    where: str
    message: str


def check(ground: Ground, data: Path, deep: bool) -> tuple[Damage, ...]:
    """All damage; with `deep` every byte of content is read."""
    try:
        with ground.database.read() as connection:
            return tuple(_damages(ground, connection, data, deep))
    except DamageError as error:
        return (Damage("database", ground.database.place, str(error)),)


def _damages(ground: Ground, connection: Connection, data: Path, deep: bool) -> Iterator[Damage]:
    if deep and ground.database.is_sqlite:
        for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if line != "ok":
                yield Damage("database", NAME, line)
    content, adapters = named(connection, CONTENT), named(connection, ADAPTERS)
    yield from _content(ground, connection, content, deep)
    yield from _adapters(ground, adapters, deep)
    held = ground.blobs.pins.held
    yield from _strays("blobs", ground.blobs.names(), content, held)
    yield from _strays("adapters", ground.blobs.adapter_names(), adapters, held)
    yield from _leftovers(data)
    yield from _pointers(connection)
    yield from _numbers(connection)
    yield from _states(connection)


def _content(ground: Ground, connection: Connection, content: Iterable[str], deep: bool) -> Iterator[Damage]:
    sizes = {row.sha256: (row.bytes, row.id) for table in (parts, files) for row in connection.execute(select(table))}
    for sha256 in sorted(content):
        size, row = sizes.get(sha256, (None, "a job"))
        try:
            if deep:
                ground.blobs.verify(sha256, size)
                continue
            path = ground.blobs.path(sha256)
            if not path.is_file():
                yield Damage("missing content", row, f"{path}: is not there.")
            elif size is not None and path.stat().st_size != size:
                yield Damage("wrong content", row, f"{path}: {path.stat().st_size:,} bytes, expected {size:,}.")
        except WeftError as error:
            gone = "is gone" in str(error)
            yield Damage("missing content" if gone else "wrong content", row, str(error))


def _adapters(ground: Ground, adapters: Iterable[str], deep: bool) -> Iterator[Damage]:
    for identity in sorted(adapters):
        try:
            if not ground.blobs.adapter(identity).is_dir():
                yield Damage("missing adapter", identity, f"{ground.blobs.adapter(identity)}: is not there.")
            elif deep:
                ground.blobs.verify_adapter(identity)
        except WeftError as error:
            yield Damage("wrong adapter", identity, str(error))


def _strays(folder: str, found: Iterable[str], wanted: set[str], held: Callable[[str], bool]) -> Iterator[Damage]:
    for name in sorted(found):
        if name not in wanted and not held(name):
            yield Damage("stray", f"{folder}/{name}", "No row names it. The next start removes it.")


def _leftovers(data: Path) -> Iterator[Damage]:
    before = time.time() - LIFE_SECONDS
    for path in sorted((data / "tmp").iterdir()):
        if path.lstat().st_mtime < before:
            yield Damage("leftover", f"tmp/{path.name}", "Left half written. The next start removes it.")
    known = {*FOLDERS, MARK, KEEP, ".lock", *(NAME + end for end in ("", "-journal", "-wal", "-shm"))}
    for path in sorted(data.iterdir()):
        if path.name not in known:
            yield Damage("stray", path.name, "Does not belong into the data folder. Move it elsewhere.")


def _pointers(connection: Connection) -> Iterator[Damage]:
    for column, target in _POINTERS:
        query = select(column).where(column.is_not(None), column.not_in(select(target))).distinct()
        for value in connection.scalars(query):
            yield Damage("row points nowhere", f"{column.table.name}.{column.name}", f"{value}: no such row.")
    wanted = select(jobs.c.id, jobs.c.fine_tuned_model).where(jobs.c.status == "succeeded")
    for id, name in connection.execute(wanted):
        if name is None:
            yield Damage("impossible state", id, "succeeded without a model.")


def _numbers(connection: Connection) -> Iterator[Damage]:
    counted = (
        select(events.c.job_id, func.count().label("many"), func.max(events.c.number).label("last"))
        .group_by(events.c.job_id)
        .subquery()
    )
    query = select(jobs.c.id, jobs.c.told, counted.c.many, counted.c.last).outerjoin(
        counted, counted.c.job_id == jobs.c.id
    )
    for id, told, many, last in connection.execute(query):
        if not told == many == last:
            yield Damage("missing events", id, f"{told} were told, {many or 0} are there, the last is {last or 0}.")


def _states(connection: Connection) -> Iterator[Damage]:
    final = jobs.c.status.in_(FINAL)
    rules = (
        ("ended without a time", final & jobs.c.finished_at.is_(None)),
        ("ended, but a worker holds it", final & jobs.c.held_by.is_not(None)),
        ("running, but no worker holds it", (jobs.c.status == "running") & jobs.c.held_by.is_(None)),
        ("a wish, but no worker to hear it", jobs.c.wish.is_not(None) & jobs.c.held_by.is_(None)),
    )
    for message, rule in rules:
        for id in connection.scalars(select(jobs.c.id).where(rule)):
            yield Damage("impossible state", id, f"{message}.")
