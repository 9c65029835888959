"""Shingles that most texts hold, counted in bounded memory: lossy counting (Manku and Motwani 2002), made exact.

What is rare so far is forgotten whenever too much is known. What may have been forgotten too early is counted once
more, so the answer is that of a full count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

_KNOWN = 200_000
"""Shingles known at a time, about 30 MB."""


def in_most(sets: Callable[[], Iterable[frozenset[str]]], share: float, known: int = _KNOWN) -> frozenset[str]:
    """What is in more than this share of the sets; `sets` begins anew at each call, and is called once or twice."""
    counts: Counter[str] = Counter()
    number, missed, room = 0, 0.0, known
    for number, own in enumerate(sets(), start=1):
        counts.update(own)
        if len(counts) > room:
            # What is dropped, or was before, is in at most this many of the sets so far.
            dropped = share / 2 * number
            counts = Counter({one: seen for one, seen in counts.items() if seen + missed > dropped})
            missed, room = dropped, max(known, 2 * len(counts))
    least = share * number
    sure = frozenset(one for one, seen in counts.items() if seen > least)
    unsure = frozenset(one for one, seen in counts.items() if seen <= least < seen + missed)
    if not unsure:
        return sure
    again: Counter[str] = Counter()
    for own in sets():
        again.update(own & unsure)
    return sure | {one for one, seen in again.items() if seen > least}
