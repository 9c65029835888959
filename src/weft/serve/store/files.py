"""Files of owners."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select

from weft.errors import NotThere
from weft.serve.records import File, FileStatus, Order, Page
from weft.serve.store.ground import Ground
from weft.serve.store.rows import page, record
from weft.serve.store.schema import files

PREFIX = "file-"


def make_file(row: Row[Any]) -> File:
    return record(File, row)


class Files:
    """Rows of `files`; the content lies in the blobs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def create(
        self,
        owner: str,
        filename: str,
        purpose: str,
        sha256: str,
        size: int,
        expires_after: int | None = None,
        status: FileStatus = "processed",
    ) -> File:
        """Name content that was put; `expires_after` in seconds from now. Lets go of the content's pin."""
        with self._ground.database.write() as connection:
            file = insert_file(self._ground, connection, owner, filename, purpose, sha256, size, expires_after, status)
        self._ground.blobs.pins.release(sha256)
        return file

    def get(self, owner: str, id: str) -> File:
        """Raises NotThere for an unknown, foreign, deleted or expired one."""
        with self._ground.database.read() as connection:
            return find_file(self._ground, connection, owner, id)

    def list(
        self,
        owner: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Order = "desc",
    ) -> Page[File]:
        where = [files.c.owner == owner, _is_alive(self._ground.now())]
        where += [files.c.purpose == purpose] if purpose is not None else []
        with self._ground.database.read() as connection:
            return page(
                connection, files, make_file, where, after=after, limit=limit, order=order, cursor=("file", PREFIX)
            )

    def delete(self, owner: str, id: str) -> None:
        """Forget the file, and its content where nothing else names it."""
        with self._ground.database.write() as connection:
            file = find_file(self._ground, connection, owner, id)
            gone = connection.execute(files.delete().where(files.c.id == id)).rowcount
        if not gone:
            raise NotThere("file", id)
        self._ground.tidy([file.sha256])

    def set_status(self, owner: str, id: str, status: FileStatus, details: str | None = None) -> File:
        with self._ground.database.write() as connection:
            file = find_file(self._ground, connection, owner, id)
            connection.execute(files.update().where(files.c.id == id).values(status=status, status_details=details))
            return dataclasses.replace(file, status=status, status_details=details)


def insert_file(
    ground: Ground,
    connection: Connection,
    owner: str,
    filename: str,
    purpose: str,
    sha256: str,
    size: int,
    expires_after: int | None = None,
    status: FileStatus = "processed",
) -> File:
    """A new row, as part of a larger transaction."""
    now = ground.now()
    file = File(
        id=ground.minter.id(PREFIX),
        owner=owner,
        bytes=size,
        created_at=now,
        filename=filename,
        purpose=purpose,
        status=status,
        status_details=None,
        expires_at=None if expires_after is None else now + expires_after,
        sha256=sha256,
    )
    connection.execute(files.insert().values(**dataclasses.asdict(file)))
    return file


def find_file(ground: Ground, connection: Connection, owner: str, id: str) -> File:
    """Raises NotThere."""
    where = and_(files.c.id == id, files.c.owner == owner, _is_alive(ground.now()))
    row = connection.execute(select(files).where(where)).first()
    if row is None:
        raise NotThere("file", id)
    return make_file(row)


def _is_alive(now: int) -> Any:
    return or_(files.c.expires_at.is_(None), files.c.expires_at > now)
