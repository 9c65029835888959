"""Which sets of shingles may be alike: MinHash-LSH in about 300 bytes per set, whatever its size.

Of the 192 values of a MinHash (Broder 1997; rensa's) stay one number for each of its 24 bands and the lowest byte of
each value. Sets that share a band are candidates (24 bands of 8: a pair at Jaccard 0.8 is met with 99 %, one at 0.5
with 9 %); the bytes tell beforehand which of them cannot be as alike as asked. What a set really holds, and whether a
candidate is alike, is for `near.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_BANDS, _WIDTH, _SEED = 24, 8, 20
_PERMUTATIONS = _BANDS * _WIDTH
_FACTORS = [0x9E3779B97F4A7C15**power % 2**64 for power in range(1, _WIDTH + 1)]
_BATCH = 64
_SLACK = 0.15
"""What an estimate may lie below the threshold: five standard deviations of 192 values at 0.8."""

Members = NDArray[np.intp]


class Sketches:
    """Of `number` sets, by their place."""

    def __init__(self, sets: Iterable[Iterable[str]], number: int) -> None:
        from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

        self._bands = np.empty((number, _BANDS), np.uint32)
        self._bytes = np.empty((number, _PERMUTATIONS), np.uint8)
        factors = np.array(_FACTORS, np.uint64)
        rest = (list(own) for own in sets)
        at = 0
        while some := list(islice(rest, _BATCH)):
            values = np.array(RMinHash.digests_from_token_sets(some, _PERMUTATIONS, _SEED), np.uint64)
            end = at + len(some)
            self._bands[at:end] = (values.reshape(-1, _BANDS, _WIDTH) * factors).sum(-1) >> np.uint64(32)
            self._bytes[at:end] = values.astype(np.uint8)
            at = end

    def buckets(self) -> Iterator[tuple[int, Members]]:
        """Each band's groups of two or more sets that are equal in it, places ascending; and the band's number."""
        for band in range(_BANDS):
            column = self._bands[:, band]
            order = np.argsort(column, kind="stable")
            new = np.flatnonzero(np.diff(column[order])) + 1
            starts, ends = np.append(0, new), np.append(new, len(order))
            shared = ends - starts > 1
            for start, end in zip(starts[shared].tolist(), ends[shared].tolist(), strict=True):
                yield band, order[start:end]

    def likely(self, band: int, lefts: Members, right: int, threshold: float) -> Members:
        """Those of `lefts` that shared no earlier band with `right`, and may reach the threshold with it."""
        first = (self._bands[lefts, :band] != self._bands[right, :band]).all(1)
        lefts = lefts[first]
        equal = np.count_nonzero(self._bytes[lefts] == self._bytes[right], axis=1)
        return lefts[equal >= (threshold - _SLACK) * _PERMUTATIONS]
