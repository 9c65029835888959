"""Permissions: a tuned model or checkpoint that other projects may use. A project is an owner of keys here.

They need a key with the scope `admin`, which acts for its own owner: nobody shares what is another's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from weft.serve import records
from weft.serve.access import Asker
from weft.serve.errors import invalid
from weft.serve.routes.models import Name
from weft.serve.server import Server
from weft.serve.wire.error import answers
from weft.serve.wire.lists import MOST, After, Bounded, first, last
from weft.serve.wire.permissions import PermissionDeleted, PermissionObject, PermissionRequest

Limit = Annotated[int, Query(ge=1, le=MOST)]
Order = Annotated[Literal["ascending", "descending"], Query(description="By time of creation.")]
ProjectId = Annotated[str | None, Query(max_length=256, pattern=r"^[^\x00]*$", description="Of this project alone.")]
PermissionId = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]


def router(server: Server) -> APIRouter:
    """The routes under /v1/fine_tuning/checkpoints."""
    routes = APIRouter(prefix="/v1/fine_tuning/checkpoints/{model:path}/permissions", tags=["fine-tuning"])
    permissions = server.store.permissions

    @routes.post("", responses=answers(404))
    def create(model: Name, body: PermissionRequest, asker: Asker) -> Bounded[PermissionObject]:
        """Let projects use a model of the caller; the permissions of all that were asked for."""
        unknown = [project for project in body.project_ids if not server.store.keys.list(project)]
        if unknown:
            raise invalid(
                f"No key belongs to project {unknown[0]!r}, so nobody could use its permission. A project is an owner "
                f"of keys here; the operator makes one with `weft keys create NAME --owner {unknown[0]}`.",
                "project_ids",
            )
        return _page(permissions.create(asker.owner, model, body.project_ids), False)

    @routes.get("", responses=answers(404))
    def listed(
        model: Name,
        asker: Asker,
        after: After = None,
        limit: Limit = 10,
        order: Order = "descending",
        project_id: ProjectId = None,
    ) -> Bounded[PermissionObject]:
        """Who may use a model of the caller."""
        found = permissions.list(
            asker.owner, model, project=project_id, after=after, limit=limit,
            order="asc" if order == "ascending" else "desc",
        )  # fmt: skip
        return _page(found.items, found.has_more)

    @routes.delete("/{permission_id}", responses=answers(404))
    def delete(model: Name, permission_id: PermissionId, asker: Asker) -> PermissionDeleted:
        """Take a permission back."""
        permissions.delete(asker.owner, model, permission_id)
        return PermissionDeleted(id=permission_id)

    return routes


def _page(items: tuple[records.Permission, ...], more: bool) -> Bounded[PermissionObject]:
    data = [PermissionObject.of(permission) for permission in items]
    return Bounded[PermissionObject](data=data, has_more=more, first_id=first(data), last_id=last(data))
