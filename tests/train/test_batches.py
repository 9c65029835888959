"""Batches: every row once an epoch, the same ones for the same seed, and parts that hold all rows of a step."""

from __future__ import annotations

import random

from weft.records import Tokens
from weft.train.batches import WINDOW, epoch_batches, micro_batches


def _row(length: int) -> Tokens:
    return Tokens(tuple(range(length)), (False,) + (True,) * (length - 1))


def test_every_row_comes_once_an_epoch() -> None:
    for count, size in ((1, 4), (7, 3), (100, 16), (1000, 8)):
        batches = epoch_batches([1] * count, size, seed=3, epoch=0)
        assert sorted(row for batch in batches for row in batch) == list(range(count))
        assert len(batches) == -(-count // size)
        assert all(1 <= len(batch) <= size for batch in batches)


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    lengths = [random.Random(0).randint(5, 200) for _ in range(300)]
    assert epoch_batches(lengths, 8, 1, 2) == epoch_batches(lengths, 8, 1, 2)
    assert epoch_batches(lengths, 8, 1, 2) != epoch_batches(lengths, 8, 1, 3)
    assert epoch_batches(lengths, 8, 1, 2) != epoch_batches(lengths, 8, 2, 2)


def test_rows_of_similar_length_share_a_batch_and_batches_come_in_any_order() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 1000) for _ in range(WINDOW * 8)]
    batches = epoch_batches(lengths, 8, 0, 0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_parts_hold_every_row_of_the_step_within_the_limit() -> None:
    draw = random.Random(1)
    rows = [_row(draw.randint(2, 60)) for _ in range(40)] + [_row(500)]
    parts = list(micro_batches(rows, 200))
    assert sorted(len(row.ids) for part in parts for row in part) == sorted(len(row.ids) for row in rows)
    for part in parts:
        assert len(part) == 1 or len(part) * max(len(row.ids) for row in part) <= 200
    assert [len(part) for part in parts if len(part[-1].ids) == 500] == [1]
    assert len(list(micro_batches(rows, 10**6))) == 1
    assert list(micro_batches([], 10)) == []
