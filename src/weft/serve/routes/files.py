"""Files: create (streamed to disk), list, retrieve, content, delete."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from weft.serve import validate
from weft.serve.access import Asker
from weft.serve.errors import invalid
from weft.serve.routes.form import Form, form_field_error, received
from weft.serve.server import Server
from weft.serve.wire.body import warn
from weft.serve.wire.error import answers
from weft.serve.wire.files import LEAST_SECONDS, MOST_SECONDS, PURPOSES, RESULTS, FileDeleted, FileObject
from weft.serve.wire.lists import MOST, After, Bounded, Order, first, last

_MB = 1 << 20
_PIECE = 3 << 18
"""Bytes of one piece of a download; a multiple of three, so that pieces in base64 join."""
_LONGEST_NAME = 255
_KNOWN = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
ItemId = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": LEAST_SECONDS,
                            "maximum": MOST_SECONDS,
                        },
                    },
                }
            }
        },
    }
}


class _Headed:
    """An iterator of bytes that remembers how they began."""

    def __init__(self, most: int) -> None:
        self.head = b""
        self._most = most

    def pass_on(self, data: Iterator[bytes]) -> Iterator[bytes]:
        for piece in data:
            if len(self.head) < self._most:
                self.head += piece[: self._most - len(self.head)]
            yield piece


def router(server: Server) -> APIRouter:
    """The routes under /v1/files."""
    routes = APIRouter(prefix="/v1/files", tags=["files"])
    store = server.store
    limit = server.config.file_mb * _MB

    @routes.post("", responses=answers(507), openapi_extra=_FORM)
    async def create(request: Request, response: Response, asker: Asker) -> FileObject:
        """Upload a file; the answer comes when it is safely on disk."""
        headed = _Headed(validate.HEAD_BYTES)
        form = await received(
            request,
            "file",
            lambda data: store.blobs.put(headed.pass_on(data), limit),
            undo=lambda kept: store.discard(kept[0]),
        )
        warn(response, *(f"ignored unknown field: {name}" for name in sorted(form.fields.keys() - _KNOWN)[:8]))

        def keep() -> FileObject:
            sha256, size = form.kept
            try:
                purpose, expires_after = _fields(form)
                refuse_unfit(purpose, headed.head)
            except Exception:
                store.discard(sha256)
                raise
            name = label(form.filename)
            return FileObject.of(store.files.create(asker.owner, name, purpose, sha256, size, expires_after))

        return await run_in_threadpool(keep)

    @routes.get("", responses=answers(404))
    def files(
        asker: Asker,
        purpose: Annotated[str | None, Query(max_length=64, pattern=r"^[^\x00]*$")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
        order: Order = "desc",
        after: After = None,
    ) -> Bounded[FileObject]:
        """The caller's files."""
        page = store.files.list(asker.owner, purpose=purpose, after=after, limit=limit, order=order)
        data = [FileObject.of(file) for file in page.items]
        return Bounded[FileObject](data=data, has_more=page.has_more, first_id=first(data), last_id=last(data))

    @routes.get("/{file_id}", responses=answers(404))
    def retrieve(file_id: ItemId, asker: Asker) -> FileObject:
        """One file."""
        return FileObject.of(store.files.get(asker.owner, file_id))

    @routes.delete("/{file_id}", responses=answers(404))
    def delete(file_id: ItemId, asker: Asker) -> FileDeleted:
        """Delete a file."""
        store.files.delete(asker.owner, file_id)
        return FileDeleted(id=file_id)

    binary = {"schema": {"type": "string", "format": "binary"}}
    given = {200: {"content": {"application/octet-stream": binary, "text/csv": binary}}}

    @routes.get("/{file_id}/content", responses=answers(404) | given, response_class=StreamingResponse)
    def content(
        file_id: ItemId,
        asker: Asker,
        encoding: Annotated[
            Literal["plain", "base64"] | None, Query(description="For clients that expect base64.")
        ] = None,
    ) -> Any:
        """The bytes of a file, as a download."""
        file = store.files.get(asker.owner, file_id)
        handle = store.blobs.open(file.sha256)
        results = file.purpose == RESULTS
        encoded = (encoding or (server.config.result_encoding if results else "plain")) == "base64"
        size = 4 * -(-file.bytes // 3) if encoded else file.bytes
        headers = {"content-disposition": disposition(file.filename), "content-length": str(size)}
        kind = "text/csv; charset=utf-8" if results and not encoded else "application/octet-stream"
        return StreamingResponse(_pieces(handle, encoded), headers=headers, media_type=kind)

    return routes


def refuse_unfit(purpose: str, head: bytes) -> None:
    """Raise ApiError 400 for content that cannot be what its purpose says: training files are JSONL."""
    wrong = validate.by_content(head) if purpose == "fine-tune" else None
    if wrong is not None:
        raise invalid(
            f"Invalid file format for Fine-Tuning API. Must be .jsonl ({wrong})", "file", "invalid_file_format"
        )


def label(filename: str) -> str:
    """The name that a file is shown with. Raises ApiError for one that a list could not show."""
    if not filename.strip() or len(filename) > _LONGEST_NAME or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", filename):
        raise invalid(f"The file's name must have 1 to {_LONGEST_NAME} characters, and no control characters.", "file")
    return filename


def disposition(filename: str) -> str:
    """`Content-Disposition` of a download under a name that may hold anything (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename.rsplit("/", 1)[-1])
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _fields(form: Form[tuple[str, int]]) -> tuple[str, int | None]:
    """Purpose and seconds until expiry, checked. Raises ApiError."""
    fields = form.fields
    if fields.get("purpose") not in PURPOSES:
        raise form_field_error(fields, "purpose", PURPOSES)
    label(form.filename)
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return fields["purpose"], None
    if anchor != "created_at":
        raise form_field_error(fields, "expires_after[anchor]", ("created_at",))
    if not (seconds and re.fullmatch(r"[0-9]{1,9}", seconds) and LEAST_SECONDS <= int(seconds) <= MOST_SECONDS):
        said = f"expires_after[seconds] must be a whole number from {LEAST_SECONDS} to {MOST_SECONDS}."
        raise invalid(said, "expires_after[seconds]")
    return fields["purpose"], int(seconds)


def _pieces(handle: BinaryIO, encoded: bool) -> Iterator[bytes]:
    with handle:
        while piece := handle.read(_PIECE):
            yield base64.b64encode(piece) if encoded else piece
