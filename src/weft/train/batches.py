"""Which examples make which step, and which of a step's rows go through the model together.

A step's examples are a pure function of (seed, epoch), so a resumed run needs no replay: rows that begin alike and are
of similar length share a batch, and the batches come in random order. What rows begin with alike is computed once per
forward pass, so a pass takes neighbours, as many as it has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import nn

from weft.forest.build import MIN_SAVED, agreed
from weft.models.decoder import Decoder
from weft.records import Tokens

WINDOW = 16
"""Batches whose rows are sorted together: large enough for even batches, small enough to stay random."""
MICRO_TOKENS = 8192
"""Tokens that one forward pass computes: bounds memory, does not change the result beyond rounding."""

E = TypeVar("E")


def _alone(row: Tokens) -> tuple[Tokens]:
    return (row,)


def families(rows: Sequence[Tokens], batch_size: int) -> list[int]:
    """The family of each row: those that begin with the same MIN_SAVED tokens, numbered from 1 in their order.

    0 for rows whose beginning is too rare to fill a batch.
    """
    starts = [row.ids[:MIN_SAVED] for row in rows]
    frequent = [start for start, count in Counter(starts).items() if count >= batch_size]
    number = {start: place for place, start in enumerate(frequent, 1)}
    return [number.get(start, 0) for start in starts]


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, family: Sequence[int] = ()
) -> list[list[int]]:
    """Row numbers of each step of an epoch; every row once; the last batch may be smaller.

    `family`: of each row (`families`); without it all are of one.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    span = WINDOW * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), span):
        window = shuffled[start : start + span].tolist()
        window.sort(key=lambda row: (family[row] if family else 0, lengths[row]))
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def micro_batches(
    model: nn.Module, examples: Sequence[E], most_tokens: int, rows: Callable[[Any], Sequence[Tokens]] = _alone
) -> Iterator[list[E]]:
    """The examples of one step in parts for which `model` computes at most `most_tokens` tokens (one that takes more
    goes alone): a Decoder those that differ, any other model padded rows.

    `rows` gives the rows of an example that is more than one, as a pair of replies is; they are never torn apart.
    """
    own = [rows(example) for example in examples]
    parts = _by_beginnings(own, most_tokens) if isinstance(model, Decoder) else _by_length(own, most_tokens)
    for part in parts:
        yield [examples[i] for i in sorted(part, key=lambda i: (_longest(own[i]), i))]


def _by_beginnings(own: Sequence[Sequence[Tokens]], most: int) -> Iterator[list[int]]:
    """Neighbours in the order of their beginnings, as long as they differ in at most so many tokens."""
    part: list[int] = []
    taken, before = 0, ()
    for i in sorted(range(len(own)), key=lambda i: own[i][0].ids):
        if part and taken + _beyond(before, own[i]) > most:
            yield part
            part, taken, before = [], 0, ()
        part.append(i)
        taken += _beyond(before, own[i])
        before = own[i][-1].ids
    if part:
        yield part


def _by_length(own: Sequence[Sequence[Tokens]], most: int) -> Iterator[list[int]]:
    """Neighbours by length, as long as they come to at most so many padded tokens."""
    part: list[int] = []
    count = 0
    for i in sorted(range(len(own)), key=lambda i: _longest(own[i])):
        if part and _longest(own[i]) * (count + len(own[i])) > most:
            yield part
            part, count = [], 0
        part.append(i)
        count += len(own[i])
    if part:
        yield part


def _beyond(before: Sequence[int], rows: Sequence[Tokens]) -> int:
    """Tokens that these rows add: each those beyond what it begins with like the one before it."""
    added = 0
    for row in rows:
        added += len(row.ids) - agreed(before, row.ids)
        before = row.ids
    return added


def _longest(rows: Sequence[Tokens]) -> int:
    return max(len(row.ids) for row in rows)
