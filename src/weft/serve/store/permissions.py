"""Who may use a tuned model beside its owner. A project of the API is an owner here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import select

from weft.errors import NotThere
from weft.serve.records import Order, Page, Permission
from weft.serve.store.ground import Ground
from weft.serve.store.models import hold_own
from weft.serve.store.rows import page, record
from weft.serve.store.schema import permissions

KIND, PREFIX = "checkpoint.permission", "cp_"


class Permissions:
    """Rows of `permissions`. Only a model's owner gives them, sees them and takes them back."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def create(self, owner: str, model: str, projects: Sequence[str]) -> tuple[Permission, ...]:
        """Let each of `projects` use `model`; one that may already keeps its permission. Raises NotThere."""
        with self._ground.database.write() as connection:
            hold_own(connection, owner, model)
            rows = connection.execute(select(permissions).where(permissions.c.model == model))
            given = {row.project_id: record(Permission, row) for row in rows}
            asked = tuple(dict.fromkeys(projects))
            for project in asked:
                if project not in given:
                    new = Permission(self._ground.minter.id(PREFIX), model, project, self._ground.now())
                    connection.execute(permissions.insert().values(**dataclasses.asdict(new)))
                    given[project] = new
        return tuple(given[project] for project in asked)

    def list(
        self,
        owner: str,
        model: str,
        *,
        project: str | None = None,
        after: str | None = None,
        limit: int = 10,
        order: Order = "desc",
    ) -> Page[Permission]:
        """Those of one model, or of one project among them. Raises NotThere."""
        where = [permissions.c.model == model]
        if project is not None:
            where.append(permissions.c.project_id == project)
        with self._ground.database.read() as connection:
            hold_own(connection, owner, model, hold=False)
            return page(
                connection, permissions, lambda row: record(Permission, row), where,
                after=after, limit=limit, order=order, cursor=(KIND, PREFIX),
            )  # fmt: skip

    def delete(self, owner: str, model: str, id: str) -> None:
        """Take a permission back; the next request of that project no longer finds the model. Raises NotThere."""
        with self._ground.database.write() as connection:
            hold_own(connection, owner, model)
            where = (permissions.c.id == id, permissions.c.model == model)
            if not connection.execute(permissions.delete().where(*where)).rowcount:
                raise NotThere(KIND, id)
