"""Uploads: a large file in parts, in any order, put together at the end."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from weft.serve import validate
from weft.serve.access import Asker
from weft.serve.errors import ApiError, invalid
from weft.serve.routes.files import ItemId, label, refuse_unfit
from weft.serve.routes.form import received
from weft.serve.server import Server
from weft.serve.wire.body import warn
from weft.serve.wire.error import answers
from weft.serve.wire.files import CompleteRequest, PartObject, UploadObject, UploadRequest

_MB = 1 << 20
_PART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def router(server: Server) -> APIRouter:
    """The routes under /v1/uploads."""
    routes = APIRouter(prefix="/v1/uploads", tags=["uploads"])
    uploads = server.store.uploads
    config = server.config

    @routes.post("", responses=answers(507))
    def create(body: UploadRequest, response: Response, asker: Asker) -> UploadObject:
        """Announce a file that will come in parts, within an hour."""
        warn(response, *body.warnings())
        if body.bytes > config.upload_mb * _MB:
            raise invalid(f"bytes: {body.bytes:,} are more than the {config.upload_mb * _MB:,} taken here.", "bytes")
        expires_after = body.expires_after.seconds if body.expires_after else None
        name = label(body.filename)
        return UploadObject.of(
            uploads.create(asker.owner, name, body.purpose, body.bytes, body.mime_type, expires_after)
        )

    @routes.post("/{upload_id}/parts", responses=answers(404, 507), openapi_extra=_PART)
    async def part(upload_id: ItemId, request: Request, asker: Asker) -> PartObject:
        """One part; the answer comes when it is safely on disk."""
        await run_in_threadpool(uploads.get, asker.owner, upload_id)  # a foreign upload takes no bytes
        limit = config.part_mb * _MB
        form = await received(request, "data", lambda data: uploads.add_part(asker.owner, upload_id, data, limit))
        kept = form.kept
        return PartObject(id=kept.id, created_at=kept.created_at, upload_id=kept.upload_id)

    @routes.post("/{upload_id}/complete", responses=answers(404, 507))
    def complete(upload_id: ItemId, body: CompleteRequest, response: Response, asker: Asker) -> UploadObject:
        """Put the parts together; their sizes must add up to what was announced."""
        warn(response, *body.warnings())
        upload = uploads.complete(asker.owner, upload_id, body.part_ids, body.md5)
        file = server.store.files.get(asker.owner, str(upload.file_id))
        with server.store.blobs.path(file.sha256).open("rb") as handle:
            head = handle.read(validate.HEAD_BYTES)
        try:
            refuse_unfit(file.purpose, head)
        except ApiError as error:
            # The upload is complete all the same: the file says what is wrong with it, and no job takes it.
            file = server.store.files.set_status(asker.owner, file.id, "error", error.message)
        return UploadObject.of(upload, file)

    @routes.post("/{upload_id}/cancel", responses=answers(404))
    def cancel(upload_id: ItemId, asker: Asker) -> UploadObject:
        """Give an upload up; its parts are deleted."""
        return UploadObject.of(uploads.cancel(asker.owner, upload_id))

    return routes
