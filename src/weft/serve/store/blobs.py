"""Content by its SHA-256, in a folder. `Blobs` is what the store asks; object storage can fill the same place.

Written to a temporary name on the same file system, fsynced, renamed, the folder fsynced: a reader, a crash or a full
disk never meets half of it. An fsync that fails has lost the content: the temporary goes, nothing is believed. What is
read is hashed first. No name comes from a user: all are digests, checked for being such.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from weft.errors import DamageError, TooLarge
from weft.runs import sync_folder
from weft.serve.store import adapters
from weft.serve.store.disk import told
from weft.serve.store.keeping import removing
from weft.serve.store.minting import random_text
from weft.serve.store.pins import Pins

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs(Protocol):
    """Content-addressed storage of files and adapters."""

    pins: Pins

    def put(self, chunks: Iterable[bytes], limit: int, expected: int | None = None) -> tuple[str, int]: ...
    def path(self, sha256: str) -> Path: ...
    def open(self, sha256: str) -> BinaryIO: ...
    def verify(self, sha256: str, size: int | None = None) -> None: ...
    def names(self) -> Iterator[str]: ...
    def remove(self, sha256: str) -> None: ...
    def adopt_adapter(self, folder: Path) -> str: ...
    def adapter(self, identity: str) -> Path: ...
    def verify_adapter(self, identity: str) -> None: ...
    def adapter_names(self) -> Iterator[str]: ...
    def remove_adapter(self, identity: str) -> None: ...
    def sweep_temporaries(self) -> int: ...


class DiskBlobs:
    """Blobs in a data folder."""

    def __init__(self, data: Path) -> None:
        self._data, self._blobs, self._adapters, self._tmp = data, data / "blobs", data / "adapters", data / "tmp"
        self.pins = Pins()

    def put(self, chunks: Iterable[bytes], limit: int, expected: int | None = None) -> tuple[str, int]:
        """Stream content to disk; (SHA-256, bytes). It stays for an hour unless a row names it.

        `expected` bytes, where known, are reserved before the first is written. Raises TooLarge past `limit`,
        ResourceError where the disk refuses; then nothing is left of it.
        """
        temporary = self._tmp / random_text(24)
        digest = hashlib.sha256()
        try:
            with told(self._blobs, expected):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                size = self._fill(descriptor, _counted(chunks, limit, digest), expected)
            finally:
                os.close(descriptor)
            sha256 = digest.hexdigest()
            with told(self._blobs), self.pins.lock:
                # Also over the same content that lies there: should it be damaged, this mends it.
                os.replace(temporary, self._blobs / sha256)
                sync_folder(self._blobs)
                self.pins.hold(sha256)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return sha256, size

    def _fill(self, descriptor: int, chunks: Iterable[bytes], expected: int | None) -> int:
        """Write, fsync; the number of bytes. What goes wrong with the chunks themselves is left as it is."""
        size = 0
        with told(self._blobs, expected):
            if expected:
                os.posix_fallocate(descriptor, 0, expected)
        for chunk in chunks:
            left = memoryview(chunk)
            with told(self._blobs, expected):
                while left:
                    written = os.write(descriptor, left)
                    left, size = left[written:], size + written
        with told(self._blobs, expected):
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        return size

    def path(self, sha256: str) -> Path:
        """Where the content lies, whether or not it does."""
        return self._blobs / checked_digest(sha256)

    def open(self, sha256: str) -> BinaryIO:
        """The content, after all of it was compared with its name. Raises DamageError."""
        self.verify(sha256)
        return self.path(sha256).open("rb")

    def verify(self, sha256: str, size: int | None = None) -> None:
        """Read it whole and compare. Raises DamageError where it is missing or differs."""
        path = self.path(sha256)
        try:
            with path.open("rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
                length = handle.tell()
        except FileNotFoundError:
            raise DamageError(f"{path}: the content is gone. Put it back from a backup.") from None
        except OSError as error:
            raise DamageError(f"{path}: cannot be read ({error.strerror or error}). Look at the disk.") from error
        if size is not None and length != size:
            raise DamageError(f"{path}: {length:,} bytes, expected {size:,}. Put it back from a backup.")
        if found != sha256:
            raise DamageError(f"{path}: its content hashes to {found[:12]}…. Put it back from a backup.")

    def names(self) -> Iterator[str]:
        """Everything that lies among the blobs, whatever its name."""
        return (entry.name for entry in os.scandir(self._blobs))

    def remove(self, sha256: str) -> None:
        """Raises ResourceError where the disk refuses, or while a backup is being taken."""
        with told(self._blobs), removing(self._data), contextlib.suppress(FileNotFoundError):
            os.unlink(self._blobs / Path(sha256).name)
            sync_folder(self._blobs)

    def adopt_adapter(self, folder: Path) -> str:
        """Copy an adapter's two files to where they answer from, whole or not; its identity.

        `folder` is a worker's and not trusted: links and anything that is not a plain file are refused.
        Raises DamageError, ResourceError. It stays for an hour unless a row names it.
        """
        temporary = self._tmp / random_text(24)
        try:
            with told(self._adapters):
                identity = adapters.copy(folder, temporary)
            with told(self._adapters), self.pins.lock:
                final = self._adapters / identity
                if not adapters.is_intact(final):
                    if final.exists():
                        os.replace(final, self._tmp / random_text(24))
                    os.replace(temporary, final)
                    sync_folder(self._adapters)
                self.pins.hold(identity)
        finally:
            adapters.discard(temporary)
        return identity

    def adapter(self, identity: str) -> Path:
        """The folder of an adapter, whether or not it is there."""
        return self._adapters / checked_digest(identity)

    def verify_adapter(self, identity: str) -> None:
        """Read it whole and compare. Raises DamageError where it is missing or differs."""
        found = adapters.identity_of(self.adapter(identity))
        if found != identity:
            raise DamageError(
                f"{self.adapter(identity)}: its files have the identity {found[:12]}…. Put it back from a backup."
            )

    def adapter_names(self) -> Iterator[str]:
        """Everything that lies among the adapters, whatever its name."""
        return (entry.name for entry in os.scandir(self._adapters))

    def remove_adapter(self, identity: str) -> None:
        """Out of sight in one rename, then file by file. Raises as `remove` does."""
        gone = self._tmp / random_text(24)
        with told(self._adapters), removing(self._data), contextlib.suppress(FileNotFoundError):
            os.replace(self._adapters / Path(identity).name, gone)
            sync_folder(self._adapters)
        adapters.discard(gone)

    def sweep_temporaries(self) -> int:
        """Remove what was being written when the last server ended; only before this one writes."""
        left = list(self._tmp.iterdir())
        for path in left:
            adapters.discard(path)
        return len(left)


def checked_digest(text: str) -> str:
    """`text`, if it is a SHA-256 in hexadecimal: nothing else becomes part of a path."""
    if not _DIGEST.fullmatch(text):
        raise DamageError(f"{text[:80]!r}: not a SHA-256. Run a deep check of the store.")
    return text


def _counted(chunks: Iterable[bytes], limit: int, digest: hashlib._Hash) -> Iterator[bytes]:
    """The chunks, hashed as they pass; TooLarge at the first byte over the limit."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"More than {limit:,} bytes came. Send at most {limit:,}.", limit)
        digest.update(chunk)
        yield chunk
