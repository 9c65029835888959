"""How many prepared matrix products the CPU's library may keep: each new shape leaves one behind.

Batches differ in length, so nearly every step brings new shapes. oneDNN, and the layer between it and torch, each keep
the last 1,024, about a megabyte each: on a 7-million-parameter model memory grew from 250 MB to 770 MB in twelve steps
and went on; with 64 it stayed at 370 MB, at the same speed. Nothing that is computed depends on it.
"""

from __future__ import annotations

import os

KEPT = 64
"""More than the layers of one step repeat."""


def bound() -> None:
    """Keep at most KEPT products. To be called before the first product of the process; what the user set stays."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT))
