"""Permissions for tuned models on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from weft.serve import records
from weft.serve.wire.body import Body, Text

Project = Annotated[Text, Field(min_length=1, max_length=64)]


class PermissionRequest(Body):
    """Who may use a tuned model from now on."""

    project_ids: Annotated[list[Project], Field(min_length=1, max_length=100)]
    """Owners of keys of this server."""


class PermissionObject(BaseModel):
    """That a project may use a tuned model."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str

    @classmethod
    def of(cls, permission: records.Permission) -> PermissionObject:
        return cls(id=permission.id, created_at=permission.created_at, project_id=permission.project_id)


class PermissionDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True
