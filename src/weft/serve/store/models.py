"""Fine-tuned models of owners: names for adapters."""

from __future__ import annotations

from sqlalchemy import Connection, select

from weft.errors import NotThere
from weft.serve.records import Model
from weft.serve.store.ground import Ground
from weft.serve.store.rows import record
from weft.serve.store.schema import checkpoints, models


class Models:
    """Rows of `models`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def get(self, owner: str, id: str) -> Model:
        """Raises NotThere."""
        with self._ground.database.read() as connection:
            row = connection.execute(select(models).where(models.c.id == id, models.c.owner == owner)).first()
        if row is None:
            raise NotThere("model", id)
        return record(Model, row)

    def list(self, owner: str) -> tuple[Model, ...]:
        """All of them, oldest first."""
        query = select(models).where(models.c.owner == owner).order_by(models.c.created_at, models.c.id)
        with self._ground.database.read() as connection:
            return tuple(record(Model, row) for row in connection.execute(query))

    def delete(self, owner: str, id: str) -> None:
        """Forget the name, the checkpoint that carries it, and the adapter where nothing else names it."""
        with self._ground.database.write() as connection:
            where = (models.c.id == id, models.c.owner == owner)
            adapter = connection.scalar(select(models.c.adapter).where(*where))
            if adapter is None or not connection.execute(models.delete().where(*where)).rowcount:
                raise NotThere("model", id)
            connection.execute(checkpoints.delete().where(checkpoints.c.model == id))
        self._ground.tidy(adapters=[adapter])


def drop_models(connection: Connection, names: list[str]) -> None:
    """Forget names, as part of a larger transaction."""
    connection.execute(models.delete().where(models.c.id.in_(names)))
