"""Which examples make which step: a pure function of (seed, epoch), so a resumed run needs no replay.

Rows of similar length share a batch, which keeps padding small; the batches themselves come in random order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weft.records import Tokens

WINDOW = 16
"""Batches whose rows are sorted by length together: large enough for even batches, small enough to stay random."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each step of an epoch; every row once; the last batch may be smaller."""
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    span = WINDOW * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), span):
        window = sorted(shuffled[start : start + span].tolist(), key=lambda row: lengths[row])
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def micro_batches(rows: Sequence[Tokens], most_tokens: int) -> Iterator[list[Tokens]]:
    """The rows of one step in parts of at most `most_tokens` padded tokens (a longer row goes alone)."""
    part: list[Tokens] = []
    width = 0
    for row in sorted(rows, key=lambda row: len(row.ids)):
        width = max(width, len(row.ids))
        if part and width * (len(part) + 1) > most_tokens:
            yield part
            part, width = [], len(row.ids)
        part.append(row)
    if part:
        yield part
