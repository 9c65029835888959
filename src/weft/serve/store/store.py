"""The store of one server: a data folder and its database, opened together."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from weft.serve.store import check, schema, transitions, uploads
from weft.serve.store.blobs import Blobs, DiskBlobs
from weft.serve.store.database import connect
from weft.serve.store.files import Files
from weft.serve.store.folder import Folder
from weft.serve.store.ground import Ground, newest_ids
from weft.serve.store.jobs import Jobs, forget_requests
from weft.serve.store.migrate import migrate
from weft.serve.store.minting import Minter, checked_slug
from weft.serve.store.models import Models
from weft.serve.store.permissions import Permissions
from weft.serve.store.uploads import Uploads

if TYPE_CHECKING:
    from weft.serve.keys import Keys

REQUESTS_LIVE_SECONDS = 24 * 3600
"""How long an Idempotency-Key is remembered."""


class Store:
    """Make it with `Store.open`; there is one per data folder. Every method may be called from any thread."""

    def __init__(self, folder: Folder, ground: Ground) -> None:
        self._folder = folder
        self.ground = ground
        self.data: Path = folder.path
        self.clock = ground.clock
        self.blobs: Blobs = ground.blobs
        self.files = Files(ground)
        self.uploads = Uploads(ground)
        self.jobs = Jobs(ground)
        self.models = Models(ground)
        self.permissions = Permissions(ground)

    @functools.cached_property
    def keys(self) -> Keys:
        """The API keys."""
        from weft.serve.keys import Keys  # it stands on this package

        return Keys(self.ground.database, self.ground.minter, self.ground.clock)

    @classmethod
    def open(
        cls,
        data: Path,
        url: str | None = None,
        *,
        organisation: str = "weft",
        clock: Callable[[], float] = time.time,
        mend: bool = True,
    ) -> Store:
        """Take the folder, bring the schema up to date, put right what a crash left.

        `mend` false leaves what a crash left as it is, for `check` to name. Raises UsageError where another server has
        the folder, where folder and database do not belong together, or the schema is of a newer weft; ResourceError,
        DamageError, MissingExtra.
        """
        checked_slug(organisation, "organisation")
        folder = Folder(data)
        folder.lock()
        database = None
        try:
            database = connect(data, url)
            folder.belong(migrate(database))
            with database.read() as connection:
                tables = (schema.files, schema.uploads, schema.parts, schema.jobs, schema.events)
                known = newest_ids(connection, (*tables, schema.checkpoints, schema.permissions, schema.keys))
            ground = Ground(database, DiskBlobs(data), Minter(clock, known), clock, organisation)
            store = cls(folder, ground)
            if mend:
                transitions.recover(ground)
                ground.blobs.sweep_temporaries()
                store.sweep()
            return store
        except BaseException:
            if database:
                database.close()
            folder.unlock()
            raise

    def close(self) -> None:
        """Let go of database and folder."""
        if "keys" in vars(self):
            self.keys.flush()
        self.ground.database.close()
        self._folder.unlock()

    def ask(self) -> None:
        """Raise Unreachable, or what else it says, where the database does not answer."""
        with self.ground.database.read() as connection:
            connection.execute(select(1))

    def sweep(self) -> int:
        """Remove what has expired and all content that no row names; how many pieces of content went.

        Worth a call every few minutes.
        """
        now = self.ground.now()
        with self.ground.database.write() as connection:
            connection.execute(schema.files.delete().where(schema.files.c.expires_at <= now))
            uploads.expire(connection, now)
            forget_requests(connection, now - REQUESTS_LIVE_SECONDS)
        return self.ground.sweep_unnamed()

    def discard(self, sha256: str) -> None:
        """Content was put but will not be named: gone at once, unless a row or another request needs it."""
        self.blobs.pins.release(sha256)
        self.ground.tidy([sha256])

    def check(self, deep: bool = False) -> tuple[check.Damage, ...]:
        """Everything that rows and content say of each other that is not so; `deep` reads all content and hashes it."""
        return check.check(self.ground, self.data, deep)
