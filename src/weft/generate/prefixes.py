"""The prefix cache: keys and values of prompts' beginnings, in blocks, kept for prompts that begin alike.

A block is known by a hash over its owner, its adapter and every token up to its end, so nothing is ever shared between
adapters, nor between owners (who could otherwise tell what another has asked). Bounded in bytes; what was used longest
ago goes first, the end of a beginning before its start.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

BLOCK = 32
"""Tokens of a block."""


def keys(owner: str, adapter: str | None, tokens: Sequence[int]) -> list[bytes]:
    """The name of each whole block of `tokens`, each depending on all before it."""
    start = f"{owner}\0{adapter or ''}".encode()
    name, names = hashlib.sha256(start).digest(), []
    flat = np.asarray(tokens, np.int64)
    for end in range(BLOCK, len(flat) + 1, BLOCK):
        name = hashlib.sha256(name + flat[end - BLOCK : end].tobytes()).digest()
        names.append(name)
    return names


class PrefixCache:
    """Blocks by name. A block is whatever the engine keeps for BLOCK tokens; all are `block_bytes` large."""

    def __init__(self, limit: int, block_bytes: int) -> None:
        self._most = limit // block_bytes
        self._block_bytes = block_bytes
        self._blocks: OrderedDict[bytes, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._blocks) * self._block_bytes

    @property
    def works(self) -> bool:
        """Whether anything can be kept."""
        return self._most > 0

    def found(self, names: Sequence[bytes]) -> list[Any]:
        """The blocks of the longest known beginning of `names`."""
        count = next((i for i, name in enumerate(names) if name not in self._blocks), len(names))
        self._use(names[:count])
        return [self._blocks[name] for name in names[:count]]

    def missing(self, names: Sequence[bytes]) -> list[int]:
        """Places of the names that should be put, as far as there is room for a whole beginning of them."""
        return [place for place, name in enumerate(names[: self._most]) if name not in self._blocks]

    def put(self, names: Sequence[bytes], blocks: dict[int, Any]) -> None:
        """Keep `blocks`, by their places in `names`."""
        for place, block in blocks.items():
            self._blocks[names[place]] = block
        self._use([name for name in names if name in self._blocks])
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def _use(self, names: Sequence[bytes]) -> None:
        for name in reversed(names):
            self._blocks.move_to_end(name)
