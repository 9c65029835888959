"""Sketches meet the pairs that are alike, once each, and turn away those that cannot be."""

from __future__ import annotations

import random

import numpy as np

from weft.data.sketches import Sketches


def _sets(number: int, changed: int) -> list[frozenset[str]]:
    """Pairs 2n, 2n + 1 of 100 shingles that differ in `changed` of them: Jaccard (100 - c) / (100 + c)."""
    random.seed(1)
    sets = []
    for n in range(number):
        own = [f"{n}:{k}" for k in range(100)]
        sets += [frozenset(own), frozenset([*own[changed:], *(f"{n}:{k}x" for k in range(changed))])]
    return sets


def _met(sets: list[frozenset[str]], threshold: float) -> list[tuple[int, int]]:
    sketches = Sketches(iter(sets), len(sets))
    return [
        (left, right)
        for band, bucket in sketches.buckets()
        for right in bucket.tolist()
        for left in sketches.likely(band, bucket[bucket < right], right, threshold).tolist()
    ]


def test_alike_pairs_are_met_once_each() -> None:
    met = _met(_sets(300, 8), 0.8)  # 0.85
    assert len(met) == len(set(met)) and all((left // 2, right) == (right // 2, left + 1) for left, right in met)
    assert len(met) >= 297


def test_pairs_that_share_a_band_and_are_far_below_the_threshold_are_turned_away() -> None:
    sets = _sets(400, 30)  # 0.54
    met = _met(sets, 0.8)
    sketches = Sketches(iter(sets), len(sets))
    shared = {tuple(bucket.tolist()) for _, bucket in sketches.buckets()}
    assert len(shared) > 20 and len(met) < len(shared) / 4
    assert len(_met(sets, 0.5)) == len(shared)


def test_one_set_or_none_shares_nothing() -> None:
    assert list(Sketches(iter([]), 0).buckets()) == list(Sketches(iter([{"a"}]), 1).buckets()) == []
    same = list(Sketches(iter([{"a", "b"}, {"b", "a"}]), 2).buckets())
    assert len(same) == 24 and all(np.array_equal(bucket, [0, 1]) for _, bucket in same)
