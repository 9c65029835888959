"""Which checkpoint a training goes on from: the newest whose bytes are what was written.

Damaged ones that are newer get a name that is never chosen, and stay for whoever wants to know what the disk did:

    step-00000200.damaged/

One of another format is no damage: it is refused and stays what it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.errors import DamageError
from weft.train import checkpoint


@dataclass(frozen=True)
class Chosen:
    """A checkpoint as it was read, and the newer ones that could not be: each folder with what is wrong with it."""

    step: int
    tensors: Mapping[str, Tensor]
    state: dict[str, Any]
    damaged: Mapping[Path, str]


def choose(root: Path) -> Chosen | None:
    """The newest checkpoint below `root` that is what its manifest says; None where there is none at all.

    Nothing is renamed or removed. Raises DamageError where all of them are damaged, checkpoint.OtherFormat where
    another version of weft wrote the newest.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoint.named(root)):
        try:
            return Chosen(checkpoint.step_of(folder), *checkpoint.load(folder), damaged)
        except checkpoint.OtherFormat:
            raise
        except DamageError as error:
            damaged[folder] = str(error)
    if damaged:
        told = "\n".join(f"  {reason}" for reason in damaged.values())
        raise DamageError(
            f"{root}: every checkpoint is damaged, {len(damaged)} of {len(damaged)}, so there is nothing to go on "
            f"from:\n{told}\nLook after the disk, then delete this folder: training begins again at its first step."
        )
    return None


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name that is never chosen; one of that name from before is replaced."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    return aside
