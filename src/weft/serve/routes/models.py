"""Models: bases and their aliases, tuned models and their checkpoints. Only tuned ones can be deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from weft.serve import records
from weft.serve.access import Asker
from weft.serve.errors import ENDED, ApiError
from weft.serve.server import Server
from weft.serve.wire.error import answers
from weft.serve.wire.models import ModelDeleted, ModelList, ModelObject

# A path: `/` in an id comes as %2F, which is decoded before routes are matched.
Name = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]


def router(server: Server) -> APIRouter:
    """The routes under /v1/models."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])
    started = int(server.clock())
    organization = server.config.organization

    def base(name: str, behind: str) -> ModelObject:
        return ModelObject(id=name, created=started, owned_by="weft", x_weft_base=server.names.shown(behind))

    def tuned(model: records.Model) -> ModelObject:
        return ModelObject(
            id=model.id,
            created=model.created_at,
            owned_by=organization,
            x_weft_base=server.names.shown(model.base),
        )

    @routes.get("", responses=answers())
    def models(asker: Asker) -> ModelList:
        """Every model that the caller may use."""
        bases = [base(name, behind) for name, behind in server.names.bases().items()]
        return ModelList(data=[*bases, *map(tuned, server.store.models.list(asker.owner))])

    @routes.get("/{model:path}", responses=answers(404))
    def retrieve(model: Name, asker: Asker) -> ModelObject:
        """One model."""
        behind = server.names.base(model)
        return base(model, behind) if behind else tuned(server.store.models.get(asker.owner, model))

    @routes.delete("/{model:path}", responses=answers(404))
    def delete(model: Name, asker: Asker) -> ModelDeleted:
        """Delete a tuned model; its name answers no more."""
        if server.names.base(model):
            said = f"The model `{model}` is a base of this server; only tuned models can be deleted."
            raise ApiError(400, said, param="model", code="model_not_deletable", headers=ENDED)
        server.store.models.delete(asker.owner, model)
        return ModelDeleted(id=model)

    return routes
