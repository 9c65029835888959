"""The tables. One row is one record of `serve/records.py`, column for field; what else a table keeps is named here.

Ids are text that sorts by age (`minting.py`), so they are keys, cursors and order at once; PostgreSQL is told to
compare them byte by byte, as SQLite does. Everything a user wrote is stored as ASCII with JSON's escapes: a NUL or a
lone surrogate, which one database takes and the other refuses, is the same row in both.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from weft.errors import UsageError

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Written(TypeDecorator[str]):
    """Text of a user or a worker: any Python string, back as it was."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)[1:-1]

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None or "\\" not in value else json.loads(f'"{value}"')


class Id(Written):
    """An id, which may be asked for with anything; the migrations make PostgreSQL compare it byte by byte."""

    cache_ok = True


class Json(TypeDecorator[Any]):
    """A JSON value as text. Raises UsageError for NaN and infinity, which JSON has no word for."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        try:
            return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))
        except ValueError:
            raise UsageError(f"{value!r}: holds a number that is not finite. Leave it out, or send null.") from None

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Strings(Json):
    """A tuple of strings."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return tuple(super().process_result_value(value, dialect) or ())


def _id() -> Column[Any]:
    return Column("id", Id, primary_key=True)


def _owner() -> Column[Any]:
    return Column("owner", Text, nullable=False)


def _created() -> Column[Any]:
    return Column("created_at", BigInteger, nullable=False)


store = Table("store", metadata, Column("id", Text, primary_key=True))
"""One row: the name that the data folder bears too, so that no database is opened on another one's content."""

files = Table(
    "files",
    metadata,
    _id(),
    _owner(),
    Column("bytes", BigInteger, nullable=False),
    _created(),
    Column("filename", Written, nullable=False),
    Column("purpose", Written, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_details", Written),
    Column("expires_at", BigInteger),
    Column("sha256", Text, nullable=False, index=True),
    Index("ix_files_owner_id", "owner", "id"),
)

uploads = Table(
    "uploads",
    metadata,
    _id(),
    _owner(),
    Column("bytes", BigInteger, nullable=False),
    _created(),
    Column("filename", Written, nullable=False),
    Column("purpose", Written, nullable=False),
    Column("mime_type", Written, nullable=False),
    Column("status", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("expires_after", BigInteger),  # seconds that the file will live
    Column("file_id", Id),
)

parts = Table(
    "parts",
    metadata,
    _id(),
    Column("upload_id", Id, ForeignKey("uploads.id"), nullable=False, index=True),
    _created(),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    _owner(),
    _created(),
    Column("model", Written, nullable=False),
    Column("base", Written, nullable=False),
    Column("status", Text, nullable=False),
    Column("training_file", Id, nullable=False),
    Column("validation_file", Id),
    Column("suffix", Written),
    Column("seed", BigInteger, nullable=False),
    Column("method", Json, nullable=False),
    Column("hyperparameters", Json, nullable=False),
    Column("extension", Json, nullable=False),
    Column("integrations", Json),
    Column("metadata", Json),
    Column("fine_tuned_model", Written),
    Column("finished_at", BigInteger),
    Column("started_at", BigInteger),
    Column("estimated_finish", BigInteger),
    Column("trained_tokens", BigInteger),
    Column("result_files", Strings, nullable=False),
    Column("error", Json),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("wish", Text),
    Column("start_from", Text),
    Column("training_sha256", Text, nullable=False),  # the content outlives its file until the job has ended
    Column("validation_sha256", Text),
    Column("base_sha256", Text),  # told by the worker, for the models
    Column("validated", Boolean, nullable=False),  # whether its files were found good
    Column("held_by", Text),  # the worker at it; null where none is
    Column("told", Integer, nullable=False),  # how many events it has
    Column("last_step", Integer, nullable=False),  # of the metrics told
    Index("ix_jobs_owner_id", "owner", "id"),
    Index("ix_jobs_status_owner_id", "status", "owner", "id"),
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id"), primary_key=True),
    Column("key", Written, primary_key=True),
    Column("value", Written, nullable=False),
)
"""`jobs.metadata` once more, pair by pair: what lists are filtered by."""

events = Table(
    "events",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Id, nullable=False, unique=True),
    _created(),
    Column("level", Text, nullable=False),
    Column("message", Written, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", Json),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _id(),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False),
    _created(),
    Column("step", Integer, nullable=False),
    Column("model", Written, nullable=False, index=True),
    Column("metrics", Json, nullable=False),
    Column("adapter", Text, nullable=False, index=True),
    UniqueConstraint("job_id", "step"),
)

models = Table(
    "models",
    metadata,
    Column("id", Written, primary_key=True),
    _owner(),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("base", Written, nullable=False),
    Column("base_sha256", Text, nullable=False),
    Column("adapter", Text, nullable=False, index=True),
    _created(),
    Index("ix_models_owner", "owner"),
)

permissions = Table(
    "permissions",
    metadata,
    _id(),
    Column("model", Written, ForeignKey("models.id"), nullable=False),
    Column("project_id", Text, nullable=False, index=True),
    _created(),
    UniqueConstraint("model", "project_id"),
)
"""Which other owners may use a tuned model."""

requests = Table(
    "requests",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", Written, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False),
    _created(),
)
"""Idempotency keys that were used, and for what."""

keys = Table(
    "keys",
    metadata,
    _id(),
    _owner(),
    Column("name", Written, nullable=False),
    Column("prefix", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("scopes", Strings, nullable=False),
    _created(),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)
