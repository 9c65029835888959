"""Brings the tables to what this version of weft knows, in one transaction, with alembic from inside the package.

A kill in the middle leaves the old schema and the next start repeats it. A schema that this version does not know was
written by a newer one and is refused: it would be read wrongly.
"""

from __future__ import annotations

import uuid

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, select

from weft.errors import UsageError
from weft.serve.store import schema
from weft.serve.store.database import Database

_WHERE = "weft.serve.store:migrations"


def migrate(database: Database, *, allowed: bool = True) -> str:
    """Bring the schema up to date; the store's name. `allowed` false: only look.

    Raises UsageError for a schema of a newer weft, and for an older one that must not be changed now.
    """
    config = Config()
    config.set_main_option("script_location", _WHERE)
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    with database.write() as connection:
        _one_at_a_time(connection)
        found = _revision(connection)
        if found != head:
            _refuse_unknown(database, scripts, found)
            if not allowed:
                raise UsageError(f"{database.place}: is in use by a server of another version. Stop it first.")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return _name(connection)


def _refuse_unknown(database: Database, scripts: ScriptDirectory, found: str | None) -> None:
    try:
        if found is not None:
            scripts.get_revision(found)
    except CommandError:
        raise UsageError(
            f"{database.place}: was written by a newer weft (schema {found}). Install that one, or restore a backup."
        ) from None


def _one_at_a_time(connection: Connection) -> None:
    """SQLite's write transaction is exclusive already."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7765667401)")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _name(connection: Connection) -> str:
    name = connection.scalar(select(schema.store.c.id))
    if name is None:
        name = uuid.uuid4().hex
        connection.execute(schema.store.insert().values(id=name))
    return name
