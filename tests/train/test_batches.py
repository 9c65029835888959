"""Batches: every row once an epoch, the same ones for the same seed, and parts that hold all rows of a step."""

from __future__ import annotations

import random

import pytest
from torch import nn

from weft.forest.build import MIN_SAVED, agreed, plant
from weft.models.load import load
from weft.records import Tokens
from weft.testing import save_base
from weft.train.batches import WINDOW, epoch_batches, families, micro_batches

PADDED = nn.Linear(1, 1)
"""Stands for any model that is no Decoder of ours."""


def _row(length: int, start: tuple[int, ...] = ()) -> Tokens:
    ids = (*start, *range(length))
    return Tokens(ids, (False,) + (True,) * (len(ids) - 1))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return load(str(save_base(tmp_path_factory.mktemp("base")))).model


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


def test_rows_of_one_beginning_share_batches_where_there_are_enough_of_them() -> None:
    draw = random.Random(2)
    starts = [tuple(draw.randrange(50) for _ in range(MIN_SAVED)) for _ in range(3)]
    rows = [_row(draw.randint(2, 90), draw.choice(starts)) for _ in range(200)]
    rare = [_row(draw.randint(2, 90), tuple(draw.randrange(50) for _ in range(MIN_SAVED))) for _ in range(7)]
    family = families([*rows, *rare], 8)
    assert set(family[:200]) == {1, 2, 3} and family[200:] == [0] * 7
    assert families(rare * 2, 8) == [0] * 14 and families(rows[:1] * 8, 8) == [1] * 8
    lengths = [len(row.ids) for row in rows]
    mixed = epoch_batches(lengths, 8, 0, 0)
    together = epoch_batches(lengths, 8, 0, 0, family[:200])
    assert sorted(row for batch in together for row in batch) == list(range(200))
    computed = [sum(len(plant([rows[i] for i in batch]).ids) for batch in batches) for batches in (mixed, together)]
    assert computed[1] < 0.75 * computed[0]
    assert epoch_batches(lengths, 8, 0, 0, [1] * 200) == mixed


def test_agreed_is_where_two_beginnings_part() -> None:
    draw = random.Random(4)
    for _ in range(500):
        one, other = ([draw.randrange(2) for _ in range(draw.randrange(12))] for _ in range(2))
        slow = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        assert agreed(one, other) == slow == agreed(one, other, slow // 2)


def test_parts_of_a_decoder_hold_as_many_rows_as_differ_in_so_many_tokens(decoder: nn.Module) -> None:
    draw = random.Random(3)
    starts = [tuple(draw.randrange(200) for _ in range(300)) for _ in range(2)]
    rows = [
        Tokens((*starts[n % 2], *(draw.randrange(200) for _ in range(20))), (False,) * 319 + (True,)) for n in range(24)
    ]
    parts = list(micro_batches(decoder, rows, 560))
    assert [len(part) for part in parts] == [12, 12]  # 300 + 12 x 20 = 540 tokens, where padded rows are 3,840
    assert all(len({row.ids[:300] for row in part}) == 1 and len(plant(part).ids) <= 560 for part in parts)
    assert len(list(micro_batches(decoder, rows, 1080))) == 1
    assert [len(part) for part in micro_batches(decoder, rows, 1)] == [1] * 24
    assert len(list(micro_batches(PADDED, rows, 560))) == 24
    pairs = [rows[n : n + 4 : 2] for n in range(0, 24, 4)]  # of one beginning
    assert [len(part) for part in micro_batches(decoder, pairs, 460, lambda pair: pair)] == [4, 2]


def test_rows_of_one_part_stand_in_the_order_of_their_lengths(decoder: nn.Module) -> None:
    draw = random.Random(5)
    rows = [Tokens(tuple(draw.randrange(9) for _ in range(draw.randint(2, 30))), (False,)) for _ in range(50)]
    wanted = [rows[i] for i in sorted(range(50), key=lambda i: (len(rows[i].ids), i))]
    assert [list(micro_batches(model, rows, 10**6)) for model in (decoder, PADDED)] == [[wanted]] * 2


def test_parts_hold_every_row_of_the_step_within_the_limit() -> None:
    draw = random.Random(1)
    rows = [_row(draw.randint(2, 60)) for _ in range(40)] + [_row(500)]
    parts = list(micro_batches(PADDED, rows, 200))
    assert sorted(len(row.ids) for part in parts for row in part) == sorted(len(row.ids) for row in rows)
    for part in parts:
        assert len(part) == 1 or len(part) * max(len(row.ids) for row in part) <= 200
    assert [len(part) for part in parts if len(part[-1].ids) == 500] == [1]
    assert len(list(micro_batches(PADDED, rows, 10**6))) == 1
    assert list(micro_batches(PADDED, [], 10)) == []
