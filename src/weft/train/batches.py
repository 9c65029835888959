"""Which examples make which step: a pure function of (seed, epoch), so a resumed run needs no replay.

Rows of similar length share a batch, which keeps padding small; the batches themselves come in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from weft.records import Tokens

WINDOW = 16
"""Batches whose rows are sorted by length together: large enough for even batches, small enough to stay random."""
MICRO_TOKENS = 8192
"""Padded tokens per forward pass: bounds memory, does not change the result beyond rounding."""

E = TypeVar("E")


def _alone(row: Tokens) -> tuple[Tokens]:
    return (row,)


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


def micro_batches(
    examples: Sequence[E], most_tokens: int, rows: Callable[[Any], Sequence[Tokens]] = _alone
) -> Iterator[list[E]]:
    """The examples of one step in parts of at most `most_tokens` padded tokens (one that is larger goes alone).

    `rows` gives the rows of an example that is more than one, as a pair of replies is; they are never torn apart.
    """
    part: list[E] = []
    count = 0
    for length, example in sorted(((_longest(rows(e)), e) for e in examples), key=lambda entry: entry[0]):
        own = len(rows(example))
        if part and length * (count + own) > most_tokens:
            yield part
            part, count = [], 0
        part.append(example)
        count += own
    if part:
        yield part


def _longest(rows: Sequence[Tokens]) -> int:
    return max(len(row.ids) for row in rows)
