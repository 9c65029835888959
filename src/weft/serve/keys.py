"""API keys: `weft-sk-HANDLE-SECRET`, shown once.

The secret is 43 characters of base 62 from the system's randomness (256 bits); the database holds the SHA-256 of the
whole key. The handle finds the row, the hashes are compared in constant time. Every request looks the key up, so a
revoked one ends with the next; when a key was last used is remembered and written at most once a minute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Row, or_, select

from weft.errors import NotThere, UsageError
from weft.serve.records import Key
from weft.serve.store.database import Database, connect
from weft.serve.store.folder import Folder
from weft.serve.store.migrate import migrate
from weft.serve.store.minting import Minter, checked_slug, random_text
from weft.serve.store.rows import record
from weft.serve.store.schema import keys

SCOPES = ("files", "jobs", "models", "chat", "admin")
"""What a key may allow. `admin`: the operator's routes, not other owners' objects."""

_BEGINNING, _HANDLE, _SECRET = "weft-sk-", 8, 43
_FORM = re.compile(rf"{_BEGINNING}[0-9A-Za-z]{{{_HANDLE}}}-[0-9A-Za-z]{{{_SECRET}}}")
_WRITE_EVERY_SECONDS = 60


class Keys:
    """The keys of a database."""

    def __init__(self, database: Database, minter: Minter, clock: Callable[[], float] = time.time) -> None:
        self._database, self._minter, self._clock = database, minter, clock
        self._used: dict[str, int] = {}
        self._written = clock()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, data: Path, url: str | None = None, clock: Callable[[], float] = time.time) -> Keys:
        """The keys of a data folder, also beside a running server. Raises UsageError as `Store.open` does."""
        folder = Folder(data)
        alone = folder.try_lock()
        database = None
        try:
            database = connect(data, url)
            folder.belong(migrate(database, allowed=alone))
            return cls(database, Minter(clock), clock)
        except BaseException:
            if database:
                database.close()
            raise
        finally:
            folder.unlock()

    def close(self) -> None:
        """Only for keys that were opened by themselves; a store closes its own."""
        self.flush()
        self._database.close()

    def exist(self) -> bool:
        """Whether a key was ever made: from then on requests need one, even should all be revoked."""
        with self._database.read() as connection:
            return connection.scalar(select(keys.c.id).limit(1)) is not None

    def create(
        self, name: str, owner: str, scopes: Iterable[str] = SCOPES, expires_at: int | None = None
    ) -> tuple[Key, str]:
        """A new key and the text to hand out, which is nowhere kept. Raises UsageError."""
        wanted = tuple(dict.fromkeys(scopes))
        checked_slug(owner, "owner")
        unknown = [scope for scope in wanted if scope not in SCOPES]
        if unknown or not wanted:
            raise UsageError(f"scopes {', '.join(unknown) or 'none'}: expected some of {', '.join(SCOPES)}.")
        now = int(self._clock())
        if expires_at is not None and expires_at <= now:
            raise UsageError(f"expiry {expires_at}: lies in the past. Give a time after {now} (Unix seconds).")
        prefix = _BEGINNING + random_text(_HANDLE)
        secret = f"{prefix}-{random_text(_SECRET)}"
        key = Key(self._minter.id("key_"), owner, name, prefix, wanted, now, expires_at, None)
        with self._database.write() as connection:
            connection.execute(keys.insert().values(**dataclasses.asdict(key), sha256=_hash(secret)))
        return key, secret

    def find(self, secret: str) -> Key | None:
        """The key that this is, if it counts now; None for an unknown, expired or revoked one."""
        if not _FORM.fullmatch(secret):
            return None
        prefix = secret[: len(_BEGINNING) + _HANDLE]
        with self._database.read() as connection:
            row = connection.execute(select(keys).where(keys.c.prefix == prefix)).first()
        # An unknown handle costs the same comparison as a known one with another secret.
        same = hmac.compare_digest(_hash(secret), row.sha256 if row else _hash(prefix))
        now = int(self._clock())
        if row is None or not same or row.revoked_at is not None:
            return None
        if row.expires_at is not None and row.expires_at <= now:
            return None
        self._remember(row.id, now)
        return _make(row)

    def list(self, owner: str | None = None) -> tuple[Key, ...]:
        """All of them, oldest first."""
        query = select(keys).order_by(keys.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query.where(keys.c.owner == owner) if owner is not None else query)
            return tuple(_make(row) for row in rows)

    def revoke(self, key: str) -> Key:
        """End a key, named by its id or its readable beginning; again is no error. Raises NotThere."""
        which = or_(keys.c.id == key, keys.c.prefix == key)
        with self._database.write() as connection:
            row = connection.execute(select(keys).where(which).with_for_update()).first()
            if row is None:
                raise NotThere("key", key)
            ended = row.revoked_at or int(self._clock())
            connection.execute(keys.update().where(keys.c.id == row.id).values(revoked_at=ended))
            return dataclasses.replace(_make(row), revoked_at=ended)

    def flush(self) -> None:
        """Write when keys were last used, in one commit."""
        with self._lock:
            used, self._used = self._used, {}
            self._written = self._clock()
        if used:
            with self._database.write() as connection:
                for id, at in used.items():
                    connection.execute(keys.update().where(keys.c.id == id).values(last_used_at=at))

    def _remember(self, id: str, now: int) -> None:
        with self._lock:
            self._used[id] = now
            due = not 0 <= self._clock() - self._written < _WRITE_EVERY_SECONDS
        if due:
            self.flush()


def _make(row: Row[Any]) -> Key:
    return record(Key, row)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
