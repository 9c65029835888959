"""Fine-tuned models: names for adapters, of their owners and of those whom they let use them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, or_, select

from weft.errors import NotThere
from weft.serve.records import Model
from weft.serve.store.ground import Ground
from weft.serve.store.rows import record
from weft.serve.store.schema import checkpoints, models, permissions


class Models:
    """Rows of `models`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def get(self, owner: str, id: str) -> Model:
        """One that `owner` may use. Raises NotThere."""
        with self._ground.database.read() as connection:
            row = connection.execute(select(models).where(models.c.id == id, may_use(owner))).first()
        if row is None:
            raise NotThere("model", id)
        return record(Model, row)

    def list(self, owner: str) -> tuple[Model, ...]:
        """All that `owner` may use, oldest first."""
        query = select(models).where(may_use(owner)).order_by(models.c.created_at, models.c.id)
        with self._ground.database.read() as connection:
            return tuple(record(Model, row) for row in connection.execute(query))

    def delete(self, owner: str, id: str) -> None:
        """Forget the name, the checkpoint that carries it, and the adapter where nothing else names it.

        Only its owner can. Raises NotThere.
        """
        with self._ground.database.write() as connection:
            adapter = hold_own(connection, owner, id).adapter
            drop_models(connection, [id])
            connection.execute(checkpoints.delete().where(checkpoints.c.model == id))
        self._ground.tidy(adapters=[adapter])


def may_use(owner: str) -> ColumnElement[bool]:
    """The rule for rows of `models`: one's own, and those of others with a permission."""
    given = exists().where(permissions.c.model == models.c.id, permissions.c.project_id == owner)
    return or_(models.c.owner == owner, given)


def hold_own(connection: Connection, owner: str, id: str, *, hold: bool = True) -> Row[Any]:
    """A model of `owner` itself; with `hold` nobody else changes it until the transaction ends. Raises NotThere."""
    query = select(models).where(models.c.id == id, models.c.owner == owner)
    row = connection.execute(query.with_for_update() if hold else query).first()
    if row is None:
        raise NotThere("model", id)
    return row


def drop_models(connection: Connection, names: list[str]) -> None:
    """Forget names and who may use them, as part of a larger transaction."""
    connection.execute(permissions.delete().where(permissions.c.model.in_(names)))
    connection.execute(models.delete().where(models.c.id.in_(names)))
