"""The data folder: who may see it, which server has it, which database belongs to it.

    weft.db        the database, unless it is PostgreSQL       blobs/SHA256         content of files and parts
    store.json     the name that the database bears too        adapters/IDENTITY/   what jobs learned
    .lock          held by the server                          tmp/                 what is being written right now
    .keep          held by backups, and by each removal        work/                the workers' run folders, theirs

Folders are 0700 and files 0600. The kernel lets go of the lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO

from weft.errors import DamageError, UsageError
from weft.runs import sync_folder, write_whole
from weft.serve.store.disk import told

MARK = "store.json"
FOLDERS = ("blobs", "adapters", "tmp", "work")
_PATIENCE_SECONDS = 2.0  # `weft keys` holds the lock for a moment while it looks whether it may migrate


class Folder:
    """The data folder at `path`; made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        with told(path):
            if path.exists() and not path.is_dir():
                raise UsageError(f"{path}: not a folder. Name another with --data.")
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in FOLDERS:
                (path / name).mkdir(exist_ok=True, mode=0o700)
            sync_folder(path)
            sync_folder(path.parent)

    def lock(self) -> None:
        """Take the folder for this process. Raises UsageError where another server has it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self.try_lock():
            if time.monotonic() >= until:
                raise UsageError(
                    f"{self.path}: another `weft serve` is working here. Stop it, or name another folder with --data."
                )
            time.sleep(0.05)

    def try_lock(self) -> bool:
        """Take the folder if nobody has it."""
        with told(self.path):
            handle = os.fdopen(os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._lock = handle
        return True

    def unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    @property
    def is_empty(self) -> bool:
        """Whether it holds no content yet."""
        return not any(any((self.path / name).iterdir()) for name in ("blobs", "adapters"))

    def belong(self, store_id: str) -> None:
        """Bind the folder to the database of this name. Raises UsageError where it belongs to another.

        A sweep removes what no row names: on another database's content that would be everything.
        """
        mark = self.path / MARK
        if not mark.exists() and self.is_empty:
            write_whole(mark, json.dumps({"store": store_id}).encode())
            mark.chmod(0o600)
        refuse_foreign(self.path, store_id)


def refuse_foreign(path: Path, store_id: str) -> None:
    """Raise UsageError where the data folder at `path` belongs to another database than the one of this name."""
    mark = path / MARK
    try:
        known = json.loads(mark.read_text(encoding="utf-8"))["store"] if mark.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{mark}: unreadable ({error}). Put it back from a backup of the folder.") from None
    if known != store_id:
        raise UsageError(
            f"{path}: its content belongs to another database than the one that was opened. "
            "Name that one with --database, or an empty folder with --data."
        )
