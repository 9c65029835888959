"""What every part of the store stands on, and the one way content is removed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable

from sqlalchemy import Connection, Table, exists, literal, select, union

from weft.errors import ResourceError
from weft.serve.records import FINAL
from weft.serve.store.blobs import Blobs
from weft.serve.store.database import Database
from weft.serve.store.minting import Minter
from weft.serve.store.schema import checkpoints, files, jobs, models, parts

_log = logging.getLogger(__name__)

_UNFINISHED = jobs.c.status.not_in(FINAL)
CONTENT = (
    (files.c.sha256, None),
    (parts.c.sha256, None),
    (jobs.c.training_sha256, _UNFINISHED),
    (jobs.c.validation_sha256, _UNFINISHED),
)
"""Columns that name content, and which of their rows count: what a job learns from stays until it has ended."""
ADAPTERS = ((models.c.adapter, None), (checkpoints.c.adapter, None), (jobs.c.start_from, _UNFINISHED))
"""The same for adapters."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """Database, content, ids, time and the organisation that stands in models' names."""

    database: Database
    blobs: Blobs
    minter: Minter
    clock: Callable[[], float]
    organisation: str

    def now(self) -> int:
        return int(self.clock())

    def tidy(self, content: Iterable[str | None] = (), adapters: Iterable[str | None] = ()) -> int:
        """Remove those of them that no row names and nobody is about to name; how many went. Never in a transaction."""
        gone = 0
        for sources, wanted, remove in (
            (CONTENT, content, self.blobs.remove),
            (ADAPTERS, adapters, self.blobs.remove_adapter),
        ):
            for name in {name for name in wanted if name}:
                with self.blobs.pins.lock:
                    if not self.blobs.pins.held(name) and not self._is_named(name, sources):
                        gone += self._removed(name, remove)
        return gone

    def sweep_unnamed(self) -> int:
        """Remove all content that no row names; how many went."""
        with self.database.read() as connection:
            content, adapters = named(connection, CONTENT), named(connection, ADAPTERS)
        return self.tidy(
            [name for name in self.blobs.names() if name not in content],
            [name for name in self.blobs.adapter_names() if name not in adapters],
        )

    def _removed(self, name: str, remove: Callable[[str], None]) -> bool:
        try:
            remove(name)
        except ResourceError as error:
            # What it belonged to is gone by commit already, and that was the request; the sweep tries again.
            _log.warning("content %s stays for now: %s", name, error)
            return False
        return True

    def _is_named(self, name: str, sources: tuple) -> bool:
        with self.database.read() as connection:
            return any(
                connection.scalar(select(exists().where(column == name, literal(True) if rule is None else rule)))
                for column, rule in sources
            )


def named(connection: Connection, sources: tuple) -> set[str]:
    """Everything that rows name in these columns."""
    parts = [
        select(column).where(column.is_not(None), literal(True) if rule is None else rule) for column, rule in sources
    ]
    return set(connection.scalars(union(*parts)))


def newest_ids(connection: Connection, tables: Iterable[Table]) -> list[str]:
    """The last id of each table: what new ids must follow."""
    found = [connection.scalar(select(table.c.id).order_by(table.c.id.desc()).limit(1)) for table in tables]
    return [id for id in found if id]
