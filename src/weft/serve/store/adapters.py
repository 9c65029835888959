"""An adapter's folder as content: copied by hash, named by its identity.

The identity is the SHA-256 over `NAME SHA256\\n` of its two files, sorted by name. It says which weights answer,
wherever an adapter is named: rows, caches, batches.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
from pathlib import Path

from weft.errors import DamageError
from weft.runs import sync_folder

FILES = ("adapter_config.json", "adapter_model.safetensors")
_PIECE = 1 << 20


def identity_of(folder: Path) -> str:
    """The identity of the adapter in `folder`. Raises DamageError where a file is missing or is no plain file."""
    return _identity({name: _hash(folder / name) for name in FILES})


def is_intact(folder: Path) -> bool:
    """Whether the folder holds the adapter that its name says."""
    try:
        return identity_of(folder) == folder.name
    except DamageError:
        return False


def copy(source: Path, target: Path) -> str:
    """Copy the two files and nothing else into the new folder `target`, fsynced; their identity."""
    os.mkdir(target, 0o700)
    digests = {}
    for name in FILES:
        descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            digests[name] = _copy_file(source / name, descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(target)
    return _identity(digests)


def discard(path: Path) -> None:
    """Remove a temporary file or folder as far as it can be; what stays is swept at the next start."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            return


def _identity(digests: dict[str, str]) -> str:
    whole = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(whole.encode()).hexdigest()


def _hash(path: Path) -> str:
    with _plain(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _copy_file(source: Path, target: int) -> str:
    digest = hashlib.sha256()
    with _plain(source) as handle:
        while piece := handle.read(_PIECE):
            digest.update(piece)
            left = memoryview(piece)
            while left:
                left = left[os.write(target, left) :]
    return digest.hexdigest()


def _plain(path: Path) -> io.BufferedReader:
    """Open a plain file without following a link or waiting on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DamageError(f"{path}: not a readable file of an adapter ({error.strerror or error}).") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamageError(f"{path}: not a plain file. An adapter is {' and '.join(FILES)}.")
    return os.fdopen(descriptor, "rb")
