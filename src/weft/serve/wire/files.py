"""Files and uploads on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from weft.serve import records
from weft.serve.wire.body import Body, Text

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision"]
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
RESULTS = "fine-tune-results"
LEAST_SECONDS, MOST_SECONDS = 3600, 2_592_000
"""How soon and how late a file may expire after its creation."""


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error", "deleted"]
    status_details: str | None = None
    expires_at: int | None = None

    @classmethod
    def of(cls, file: records.File) -> FileObject:
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=file.created_at,
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            expires_at=file.expires_at,
        )


class FileDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ExpiresAfter(BaseModel):
    """When a file is deleted by the server."""

    model_config = ConfigDict(strict=True, extra="ignore")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_SECONDS, le=MOST_SECONDS)]


class UploadRequest(Body):
    """Announces a file that will come in parts."""

    filename: Annotated[Text, Field(min_length=1, max_length=255)]
    purpose: UploadPurpose
    bytes: Annotated[int, Field(ge=1, le=1 << 53)]
    """Size of the whole file; the parts must add up to it."""
    mime_type: Annotated[Text, Field(max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteRequest(Body):
    """The parts in their order, and the whole's MD5 in hexadecimal where the client wants it compared."""

    part_ids: Annotated[
        list[Annotated[Text, Field(max_length=64)]], Field(min_length=1, max_length=100_000, fail_fast=True)
    ]
    md5: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{32}$")] = None


class UploadObject(BaseModel):
    """An upload; `file` is there once it is completed."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    expires_at: int
    file: FileObject | None = None

    @classmethod
    def of(cls, upload: records.Upload, file: records.File | None = None) -> UploadObject:
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=upload.created_at,
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.status,
            expires_at=upload.expires_at,
            file=FileObject.of(file) if file is not None else None,
        )


class PartObject(BaseModel):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
