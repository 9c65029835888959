"""Runs the steps in the transaction that `migrate` opened. Alembic loads this file by itself."""

from __future__ import annotations

from alembic import context

from weft.serve.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
