"""The database: SQLite in the data folder, or PostgreSQL by its URL, opened for durable transactions.

`read()` and `write()` are one transaction each. On SQLite a write begins IMMEDIATE, so that it never fails half-way for
a lock, and writes of one process wait in line here rather than in SQLite's busy loop. A commit that returned is on
disk: `synchronous=FULL`, on PostgreSQL `synchronous_commit=on`. The write-ahead log is used only where the SQLite
library is free of the fault that can corrupt it (sqlite.org/wal.html, "the WAL-reset bug").
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from weft.errors import DamageError, MissingExtra, ResourceError, Unreachable, UsageError, WeftError
from weft.serve.store.folder import MARK
from weft.serve.store.mounts import remote_kind

NAME = "weft.db"
BUSY_SECONDS = 30
_WRITES = "weft_writes"
_NOT_LET_IN = re.compile("FATAL: .*(does not exist|authentication failed|pg_hba|permission denied|not permitted)")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Database:
    """An engine and the line its writers wait in."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.engine = engine
        self.place = place
        self._writing = threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees one state. Raises ResourceError, DamageError."""
        with self._told(), self.engine.connect() as connection:
            if not self.is_sqlite:  # whose statements would each see a state of their own
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, durable once the block was left without an exception, without a trace otherwise."""
        with self._told(), self._writing, self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def close(self) -> None:
        self.engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except PoolTimeout:
            raise Unreachable(f"{self.place}: all connections are in use. Send the request again later.") from None
        except DBAPIError as error:
            raise self._explained(error) from error
        except StatementError as error:
            # A column's own refusal of a value comes wrapped.
            raise error.orig if isinstance(error.orig, WeftError) else error from None

    def _explained(self, error: DBAPIError) -> Exception:
        code = getattr(error.orig, "sqlite_errorname", "") or ""
        text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if code == "SQLITE_FULL":
            return ResourceError(f"{self.place}: the disk is full. Free some space and send the request again.")
        if code.startswith(_DAMAGED):
            return DamageError(f"{self.place}: the database is damaged ({text}). Put it back from a backup.")
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return ResourceError(f"{self.place}: another program has held the database for {BUSY_SECONDS} s. End it.")
        if code.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return ResourceError(f"{self.place}: the database cannot be written ({text}). Look at the disk.")
        if _NOT_LET_IN.search(text):
            return ResourceError(
                f"{self.place}: the database server lets nobody in by this URL ({text}). See that user and database "
                "exist and that the password is theirs."
            )
        if type(error).__name__ in ("OperationalError", "InterfaceError", "InternalError"):
            return Unreachable(f"{self.place}: the database does not answer ({text}). See that it runs.")
        return error


def connect(data: Path, url: str | None) -> Database:
    """The database at `url` (postgresql://…), or `weft.db` in the data folder. Raises UsageError, MissingExtra."""
    if url is None:
        if kind := remote_kind(data):
            raise UsageError(
                f"{data}: lies on a network disk ({kind}), where SQLite can lose data. "
                "Name a local folder with --data, or a PostgreSQL with --database."
            )
        path = data / NAME
        if (data / MARK).is_file() and not path.exists():
            raise UsageError(
                f"{data}: its content belongs to another database than {NAME}, which is not there. Name that one with "
                f"--database (WEFT_DATABASE_URL), or put {NAME} back from a backup."
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return Database(_sqlite(path), str(path))
    try:
        parsed = make_url(re.sub("^postgres:", "postgresql:", url))  # libpq and hosts of databases say both
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql":
        raise UsageError(
            "--database: expected postgresql://USER@HOST/NAME; without it SQLite is used, in the data folder."
        )
    try:
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=20,
            max_overflow=30,
            hide_parameters=True,
            connect_args={"connect_timeout": 10, "options": "-c synchronous_commit=on -c timezone=UTC"},
        )
    except ImportError:
        raise MissingExtra("a PostgreSQL database", "postgres") from None
    port = f":{parsed.port}" if parsed.port else ""
    return Database(engine, f"postgresql://{parsed.host or ''}{port}/{parsed.database or ''}")


def journal_mode(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """`WAL` for the SQLite versions that keep it whole with two connections, else a rollback journal."""
    good = version >= (3, 51, 3) or (version[:2] == (3, 50) and version >= (3, 50, 7))
    return "WAL" if good or (version[:2] == (3, 44) and version >= (3, 44, 6)) else "TRUNCATE"


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)), pool_size=20, max_overflow=30, hide_parameters=True
    )
    wanted = journal_mode()

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says, not where the driver guesses
        settings = (f"busy_timeout = {BUSY_SECONDS * 1000}", "synchronous = FULL", "foreign_keys = ON")
        for setting in (*settings, "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        (found,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
        if found.upper() == "WAL" != wanted:
            raise ResourceError(f"{path}: another program has it open in a mode that this SQLite may damage. End it.")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
