"""Who may use a tuned model beside its owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "permissions",
        sa.Column("id", Id, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_permissions"),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name="fk_permissions_model"),
        sa.UniqueConstraint("model", "project_id", name="uq_permissions_model_project_id"),
    )
    op.create_index("ix_permissions_project_id", "permissions", ["project_id"])
