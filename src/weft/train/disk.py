"""How much disk a training will take, and whether it is there: asked before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from weft.errors import ResourceError

STATE_BYTES = 40_000
"""What a checkpoint has beside numbers: names of tensors, counters, states of random generators."""
WHOLE = 3
"""Checkpoints on the disk at most: two are kept while a third is written."""


def forecast(trained: int, published: int) -> int:
    """Bytes of checkpoints at their most and of the published weights; `trained` numbers learn, all float32.

    A checkpoint has the numbers that learn, the best so far, and two moments of AdamW.
    """
    return WHOLE * checkpoint_bytes(trained) + published


def checkpoint_bytes(trained: int) -> int:
    """Bytes of one checkpoint."""
    return 4 * 4 * trained + STATE_BYTES


def require(folder: Path, needed: int) -> None:
    """Raise ResourceError where the disk of `folder` has less than `needed` bytes free."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    whole, _, free = shutil.disk_usage(there)
    if whole and needed > free:  # a file system without a size does not say
        raise ResourceError(
            f"{folder}: checkpoints and result take about {needed / 1e6:,.1f} MB of disk, {free / 1e6:,.1f} MB are "
            "free. Free some space, lower --lora-r, or name a folder on another disk with --out."
        )
