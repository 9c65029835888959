"""What a `torchrun` put into the environment: how many processes share a training, and which this one is.

Apart from `processes.py`, so that it is known before any library is imported.
"""

from __future__ import annotations

import os

from weft.errors import UsageError


def count() -> int:
    """How many processes work on this training."""
    return number("WORLD_SIZE", 1)


def rank() -> int:
    """Which of them this is; the first is 0 and the only one that writes."""
    return number("RANK", 0)


def number(name: str, otherwise: int) -> int:
    """A number that torchrun put into the environment; only torchrun's, for others use such names too."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return otherwise
    found = os.environ.get(name, str(otherwise))
    if not found.isdigit():
        raise UsageError(f"torchrun: {name} is {found!r}, expected a number. Start with: torchrun -m weft train DATA")
    return int(found)
