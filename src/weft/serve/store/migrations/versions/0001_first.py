"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _needed(name: str, kind: sa.types.TypeEngine | type = sa.Text) -> sa.Column:
    return sa.Column(name, kind, nullable=False)


def _free(name: str, kind: sa.types.TypeEngine | type = sa.Text) -> sa.Column:
    return sa.Column(name, kind)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id")


def _table(name: str, *columns: sa.Column | sa.Constraint, key: tuple[str, ...] = ("id",)) -> None:
    op.create_table(name, *columns, sa.PrimaryKeyConstraint(*key, name=f"pk_{name}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def upgrade() -> None:
    _table("store", _needed("id"))
    _files()
    _jobs()
    _results()
    _access()


def _files() -> None:
    _table(
        "files",
        _needed("id", Id),
        _needed("owner"),
        _needed("bytes", sa.BigInteger),
        _needed("created_at", sa.BigInteger),
        _needed("filename"),
        _needed("purpose"),
        _needed("status"),
        _free("status_details"),
        _free("expires_at", sa.BigInteger),
        _needed("sha256"),
    )
    _index("files", "owner", "id")
    _index("files", "sha256")
    _table(
        "uploads",
        _needed("id", Id),
        _needed("owner"),
        _needed("bytes", sa.BigInteger),
        _needed("created_at", sa.BigInteger),
        _needed("filename"),
        _needed("purpose"),
        _needed("mime_type"),
        _needed("status"),
        _needed("expires_at", sa.BigInteger),
        _free("expires_after", sa.BigInteger),
        _free("file_id", Id),
    )
    _table(
        "parts",
        _needed("id", Id),
        _needed("upload_id", Id),
        _needed("created_at", sa.BigInteger),
        _needed("bytes", sa.BigInteger),
        _needed("sha256"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_parts_upload_id"),
    )
    _index("parts", "upload_id")
    _index("parts", "sha256")


def _jobs() -> None:
    _table(
        "jobs",
        _needed("id", Id),
        _needed("owner"),
        _needed("created_at", sa.BigInteger),
        _needed("model"),
        _needed("base"),
        _needed("status"),
        _needed("training_file", Id),
        _free("validation_file", Id),
        _free("suffix"),
        _needed("seed", sa.BigInteger),
        _needed("method"),
        _needed("hyperparameters"),
        _needed("extension"),
        _free("integrations"),
        _free("metadata"),
        _free("fine_tuned_model"),
        _free("finished_at", sa.BigInteger),
        _free("started_at", sa.BigInteger),
        _free("estimated_finish", sa.BigInteger),
        _free("trained_tokens", sa.BigInteger),
        _needed("result_files"),
        _free("error"),
        _needed("attempt", sa.Integer),
        _needed("crashes", sa.Integer),
        _free("wish"),
        _free("start_from"),
        _needed("training_sha256"),
        _free("validation_sha256"),
        _free("base_sha256"),
        _needed("validated", sa.Boolean),
        _free("held_by"),
        _needed("told", sa.Integer),
        _needed("last_step", sa.Integer),
    )
    _index("jobs", "owner", "id")
    _index("jobs", "status", "owner", "id")
    _table(
        "job_metadata", _needed("job_id", Id), _needed("key"), _needed("value"), _of_job("job_metadata"),
        key=("job_id", "key"),
    )  # fmt: skip
    _table(
        "events",
        _needed("job_id", Id),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        _needed("id", Id),
        _needed("created_at", sa.BigInteger),
        _needed("level"),
        _needed("message"),
        _needed("type"),
        _free("data"),
        _of_job("events"),
        sa.UniqueConstraint("id", name="uq_events_id"),
        key=("job_id", "number"),
    )


def _results() -> None:
    _table(
        "checkpoints",
        _needed("id", Id),
        _needed("job_id", Id),
        _needed("created_at", sa.BigInteger),
        _needed("step", sa.Integer),
        _needed("model"),
        _needed("metrics"),
        _needed("adapter"),
        _of_job("checkpoints"),
        sa.UniqueConstraint("job_id", "step", name="uq_checkpoints_job_id_step"),
    )
    _index("checkpoints", "model")
    _index("checkpoints", "adapter")
    _table(
        "models",
        _needed("id"),
        _needed("owner"),
        _needed("job_id", Id),
        _needed("base"),
        _needed("base_sha256"),
        _needed("adapter"),
        _needed("created_at", sa.BigInteger),
        _of_job("models"),
    )
    _index("models", "owner")
    _index("models", "job_id")
    _index("models", "adapter")


def _access() -> None:
    _table(
        "requests",
        _needed("owner"),
        _needed("key"),
        _needed("body_sha256"),
        _needed("job_id", Id),
        _needed("created_at", sa.BigInteger),
        _of_job("requests"),
        key=("owner", "key"),
    )
    _table(
        "keys",
        _needed("id", Id),
        _needed("owner"),
        _needed("name"),
        _needed("prefix"),
        _needed("sha256"),
        _needed("scopes"),
        _needed("created_at", sa.BigInteger),
        _free("expires_at", sa.BigInteger),
        _free("revoked_at", sa.BigInteger),
        _free("last_used_at", sa.BigInteger),
        sa.UniqueConstraint("prefix", name="uq_keys_prefix"),
    )
