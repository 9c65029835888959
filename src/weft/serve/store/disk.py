"""The system's refusals to write, in words."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from weft.errors import ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def told(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError into a ResourceError about `path`; `needed` bytes are named where they are known."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            size = f" ({needed:,} bytes are needed)" if needed else ""
            raise ResourceError(
                f"{path}: the disk is full{size}. Free some space and send the request again."
            ) from error
        if error.errno in _FORBIDDEN:
            raise ResourceError(f"{path}: no permission to write here. Name another folder with --data.") from error
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}). Look at the disk.") from error
