"""Models on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """A base, an alias, a tuned model or one of its checkpoints. `x_weft_base` is the base that answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    x_weft_base: str


class ModelList(BaseModel):
    """All models, without pages."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
