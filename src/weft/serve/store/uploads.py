"""Files that arrive in parts. An upload lives for an hour; its parts are content of their own until it is completed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, select

from weft.errors import DamageError, NotThere, UsageError, WrongState
from weft.serve.records import Part, Upload
from weft.serve.store.files import insert_file
from weft.serve.store.ground import Ground
from weft.serve.store.rows import record
from weft.serve.store.schema import parts, uploads

LIFE_SECONDS = 3600
PART_LIMIT = 64 << 20
_PIECE = 1 << 20


class Uploads:
    """Rows of `uploads` and `parts`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def create(
        self, owner: str, filename: str, purpose: str, bytes: int, mime_type: str, expires_after: int | None = None
    ) -> Upload:
        """Announce a file of `bytes`; it will live `expires_after` seconds where that is given."""
        now = self._ground.now()
        upload = Upload(
            id=self._ground.minter.id("upload_"),
            owner=owner,
            bytes=bytes,
            created_at=now,
            filename=filename,
            purpose=purpose,
            mime_type=mime_type,
            status="pending",
            expires_at=now + LIFE_SECONDS,
            file_id=None,
        )
        with self._ground.database.write() as connection:
            connection.execute(uploads.insert().values(**dataclasses.asdict(upload), expires_after=expires_after))
        return upload

    def get(self, owner: str, id: str) -> Upload:
        """Raises NotThere."""
        with self._ground.database.read() as connection:
            return self._find(connection, owner, id)

    def add_part(self, owner: str, id: str, chunks: Iterable[bytes], limit: int = PART_LIMIT) -> Part:
        """Put one part; parts may come at the same time. Raises NotThere, WrongState, TooLarge, ResourceError."""
        with self._ground.database.read() as connection:
            _expect_pending(self._find(connection, owner, id))
        sha256, size = self._ground.blobs.put(chunks, limit)
        part = Part(self._ground.minter.id("part_"), id, self._ground.now(), size, sha256)
        try:
            with self._ground.database.write() as connection:
                _expect_pending(self._find(connection, owner, id, hold=True))
                connection.execute(parts.insert().values(**dataclasses.asdict(part)))
        finally:
            self._ground.blobs.pins.release(sha256)
        return part

    def complete(self, owner: str, id: str, part_ids: Sequence[str], md5: str | None = None) -> Upload:
        """Join the parts in this order into a file; the upload with its `file_id`.

        Raises NotThere for an unknown part, UsageError where size or MD5 are not as announced, WrongState.
        """
        with self._ground.database.read() as connection:
            upload = self._find(connection, owner, id)
            _expect_pending(upload)
            chosen = _chosen(connection, id, part_ids)
        total = sum(part.bytes for part in chosen)
        if total != upload.bytes:
            raise UsageError(
                f"Upload {id}: its parts have {total:,} bytes together, but {upload.bytes:,} were announced. "
                "Add what is missing, or start another upload with the right size."
            )
        try:
            sha256, size = self._join(chosen, upload, md5)
        except DamageError:
            _expect_pending(self.get(owner, id))  # somebody completed or cancelled it meanwhile: say so
            raise
        try:
            with self._ground.database.write() as connection:
                _expect_pending(self._find(connection, owner, id, hold=True))
                lives = connection.scalar(select(uploads.c.expires_after).where(uploads.c.id == id))
                file = insert_file(
                    self._ground, connection, owner, upload.filename, upload.purpose, sha256, size, lives
                )
                gone = _close(connection, id, status="completed", file_id=file.id)
        finally:
            self._ground.blobs.pins.release(sha256)
        self._ground.tidy(gone)
        return self.get(owner, id)

    def cancel(self, owner: str, id: str) -> Upload:
        """Raises NotThere, WrongState where it is completed, cancelled or expired."""
        with self._ground.database.write() as connection:
            _expect_pending(self._find(connection, owner, id, hold=True))
            gone = _close(connection, id, status="cancelled")
        self._ground.tidy(gone)
        return self.get(owner, id)

    def _find(self, connection: Connection, owner: str, id: str, *, hold: bool = False) -> Upload:
        query = select(uploads).where(uploads.c.id == id, uploads.c.owner == owner)
        row = connection.execute(query.with_for_update() if hold else query).first()
        if row is None:
            raise NotThere("upload", id)
        upload = record(Upload, row)
        over = upload.status == "pending" and upload.expires_at <= self._ground.now()
        return dataclasses.replace(upload, status="expired") if over else upload

    def _join(self, chosen: Sequence[Part], upload: Upload, md5: str | None) -> tuple[str, int]:
        digest = hashlib.md5(usedforsecurity=False)

        def pieces() -> Iterator[bytes]:
            for part in chosen:
                with self._ground.blobs.open(part.sha256) as handle:
                    while piece := handle.read(_PIECE):
                        digest.update(piece)
                        yield piece
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise UsageError(
                    f"Upload {upload.id}: its parts have the MD5 {digest.hexdigest()}, but {md5!r} was announced. "
                    "Check the order of the parts, or send them again."
                )

        return self._ground.blobs.put(pieces(), upload.bytes, expected=upload.bytes)


def expire(connection: Connection, now: int) -> list[str]:
    """Close the uploads that were never completed; the content that nobody will ask for any more."""
    over = select(uploads.c.id).where(uploads.c.status == "pending", uploads.c.expires_at <= now)
    return [name for id in connection.scalars(over).all() for name in _close(connection, id, status="expired")]


def _close(connection: Connection, id: str, **values: str) -> list[str]:
    """Set the final state and drop the parts; their content."""
    gone = list(connection.scalars(select(parts.c.sha256).where(parts.c.upload_id == id)))
    connection.execute(parts.delete().where(parts.c.upload_id == id))
    connection.execute(uploads.update().where(uploads.c.id == id).values(**values))
    return gone


def _chosen(connection: Connection, id: str, part_ids: Sequence[str]) -> list[Part]:
    rows = connection.execute(select(parts).where(parts.c.upload_id == id)).all()
    known = {row.id: record(Part, row) for row in rows}
    missing = [part for part in part_ids if part not in known]
    if missing:
        raise NotThere("part", missing[0])
    return [known[part] for part in part_ids]


def _expect_pending(upload: Upload) -> None:
    if upload.status != "pending":
        raise WrongState(
            f"Upload {upload.id} is {upload.status}, expected pending. Start another upload.", upload.status
        )
