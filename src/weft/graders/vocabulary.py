"""Is a set of values closed? Few distinct values that keep coming back, so that the next one will hardly be new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def is_closed(values: Sequence[Hashable], *, unseen: float = 0.1, repeats: float = 2.0) -> bool:
    """Whether `values` are drawn from a small fixed vocabulary.

    Two conditions: each value comes `repeats` times on average, and the chance that the next value is new is at most
    `unseen`. The chance is Good and Turing's estimate, the share of values seen once (Good 1953); one such value is
    always allowed, or a set of ten rows could never be closed.
    """
    counts = Counter(values)
    once = sum(1 for count in counts.values() if count == 1)
    return len(counts) * repeats <= len(values) and once <= max(1, unseen * len(values))
