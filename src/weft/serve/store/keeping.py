"""Content stays while somebody copies it: the one lock between a backup and the server beside it.

A backup holds it together with other backups; each removal needs it alone and does not wait: what could not be removed
goes with the next sweep. The kernel lets go of it when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from weft.errors import ResourceError
from weft.serve.store.disk import told

KEEP = ".keep"


@contextlib.contextmanager
def keeping(data: Path) -> Iterator[None]:
    """Nothing is removed from this data folder meanwhile; waits for the removal that is going on."""
    with _opened(data) as lock:
        with told(data):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def removing(data: Path) -> Iterator[None]:
    """Raises ResourceError where the folder is being copied."""
    with _opened(data) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"{data}: a backup is being taken. It is removed later.") from None
        yield


@contextlib.contextmanager
def _opened(data: Path) -> Iterator[int]:
    with told(data):
        descriptor = os.open(data / KEEP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
