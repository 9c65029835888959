"""A copy of a whole store, taken beside a running server: a backup, and the way back.

The database is copied as it was at one moment: by SQLite's backup API, or row by row out of one snapshot where one of
the two is PostgreSQL. Then the content that this copy names is copied, hashed on the way. From before that moment to
the end `keeping` holds back every removal, so nothing that the copy names can go meanwhile. The copy is a data folder
of its own and appears whole or not at all.

Left out: `work/`, the run folders of jobs. A job that was at work begins again in the copy, from its first step.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from weft.errors import DamageError, ResourceError, UsageError
from weft.runs import sync_folder
from weft.serve.store import schema
from weft.serve.store.blobs import DiskBlobs
from weft.serve.store.check import Damage
from weft.serve.store.database import NAME, Database, connect
from weft.serve.store.disk import told
from weft.serve.store.folder import MARK, Folder, refuse_foreign
from weft.serve.store.ground import ADAPTERS, CONTENT, named
from weft.serve.store.keeping import keeping
from weft.serve.store.migrate import migrate
from weft.serve.store.minting import random_text

_ROWS_AT_ONCE = 1000
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds, and what was found damaged and is not in it."""

    files: int
    adapters: int
    bytes: int
    damages: tuple[Damage, ...]


def copy_store(data: Path, url: str | None, out: Path, out_url: str | None = None) -> Copied:
    """Copy the store of the folder `data` and the database `url` to the new folder `out` and the database `out_url`.

    Without a URL a database is SQLite, in its folder. Everything that was acknowledged before the call is in the copy.
    Raises UsageError where `data` is no store, or not that of this database, or the target is not empty;
    ResourceError, DamageError.
    """
    if not (data / MARK).is_file():
        raise UsageError(f"{data}: no data folder of a server ({MARK} is missing). Name another.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out}: exists already. Name a folder that is not there yet.")
    if out.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{out}: lies in the data folder itself. Name a folder elsewhere.")
    temporary = out.with_name(f".{out.name}.{random_text(8)}.tmp")
    try:
        folder = Folder(temporary)
        with (
            contextlib.closing(connect(data, url)) as source,
            contextlib.closing(connect(temporary, out_url)) as target,
            keeping(data),
            _copied_rows(source, target, temporary / NAME) as rows,
        ):
            name = str(rows.scalar(select(schema.store.c.id)))
            refuse_foreign(data, name)
            folder.belong(name)
            copied = _copy_content(rows, DiskBlobs(data), DiskBlobs(temporary))
        _publish(temporary, out)
        return copied
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _copied_rows(source: Database, target: Database, path: Path) -> Iterator[Connection]:
    """The target's rows, copied; durable once the block was left without an exception."""
    if source.is_sqlite and target.is_sqlite:
        _copy_sqlite(source, path)
        migrate(target)  # the copy, never the source: its server may be of another version
        with target.read() as rows:
            yield rows
        return
    migrate(source, allowed=False)
    migrate(target)
    with source.read() as found, target.write() as rows:
        _expect_empty(target, rows)
        for table in schema.metadata.sorted_tables:
            for part in found.execute(select(table).execution_options(yield_per=_ROWS_AT_ONCE)).mappings().partitions():
                rows.execute(insert(table), [dict(row) for row in part])
        yield rows


def _copy_sqlite(source: Database, path: Path) -> None:
    """All pages in one step: a copy in several begins anew whenever somebody writes in between."""
    with source.read() as connection, contextlib.closing(sqlite3.connect(path)) as target:
        live: Any = connection.connection.driver_connection
        try:
            live.backup(target)
            damage = [line for (line,) in target.execute("PRAGMA integrity_check") if line != "ok"]
        except sqlite3.OperationalError as error:
            raise ResourceError(f"{source.place}: cannot be copied ({error}). Look at the disk.") from error
        except sqlite3.DatabaseError as error:
            damage = [str(error)]
    if damage:
        raise DamageError(f"{source.place}: the database is damaged ({damage[0]}). Put it back from a backup.")


def _expect_empty(database: Database, rows: Connection) -> None:
    for table in schema.metadata.sorted_tables:
        if table is not schema.store and rows.execute(select(table).limit(1)).first() is not None:
            raise UsageError(f"{database.place}: is not empty ({table.name} has rows). Name an empty database.")
    rows.execute(schema.store.delete())


def _copy_content(rows: Connection, source: DiskBlobs, target: DiskBlobs) -> Copied:
    damages: list[Damage] = []
    content, adapters = sorted(named(rows, CONTENT)), sorted(named(rows, ADAPTERS))
    size = 0
    for name in content:
        with _noted(damages, "content", name):
            found, bytes = target.put(_pieces(source.path(name)), 1 << 62)
            _expect(found, name, source.path(name), target.remove)
            size += bytes
    for name in adapters:
        with _noted(damages, "adapter", name):
            found = target.adopt_adapter(source.adapter(name))
            _expect(found, name, source.adapter(name), target.remove_adapter)
            size += sum(path.stat().st_size for path in target.adapter(name).iterdir())
    wrong = [damage.kind.endswith("content") for damage in damages]
    return Copied(len(content) - sum(wrong), len(adapters) - wrong.count(False), size, tuple(damages))


@contextlib.contextmanager
def _noted(damages: list[Damage], what: str, name: str) -> Iterator[None]:
    """One damaged piece is named and left out; it must not cost all the others."""
    try:
        yield
    except DamageError as error:
        damages.append(Damage(f"damaged {what}", name, str(error)))


def _expect(found: str, name: str, path: Path, remove: Callable[[str], None]) -> None:
    if found != name:
        remove(found)
        raise DamageError(f"{path}: its content hashes to {found[:12]}…. It is not in the copy.")


def _pieces(path: Path) -> Iterable[bytes]:
    try:
        with path.open("rb") as handle:
            while piece := handle.read(_PIECE):
                yield piece
    except OSError as error:
        raise DamageError(f"{path}: cannot be read ({error.strerror or error}). It is not in the copy.") from None


def _publish(temporary: Path, out: Path) -> None:
    with told(out):
        sync_folder(temporary)
        os.replace(temporary, out)
        sync_folder(out.parent)
