"""What most sets hold is what a full count says, however little may be known at a time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from weft.data.frequent import in_most


def _full(sets: list[frozenset[str]], share: float) -> frozenset[str]:
    counts = Counter(one for own in sets for one in own)
    return frozenset(one for one, seen in counts.items() if seen > share * len(sets))


@pytest.mark.parametrize("known", [1, 20, 300, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_in_most_is_what_a_full_count_says(known: int, seed: int) -> None:
    random.seed(seed)
    # Some are in a share of the sets that drifts over the file, so early counts mislead.
    shares = {f"often {n}": (random.random(), random.random()) for n in range(60)}
    sets = []
    for at in range(400):
        drift = at / 400
        own = {one for one, (begin, end) in shares.items() if random.random() < begin + (end - begin) * drift}
        sets.append(frozenset(own | {f"rare {random.randrange(10_000)}" for _ in range(20)}))
    passes = []

    def again() -> Iterator[frozenset[str]]:
        passes.append(1)
        return iter(sets)

    found = in_most(again, 0.5, known)
    assert found == _full(sets, 0.5) and 10 < len(found) < 50
    assert len(passes) == 1 if known == 100_000 else len(passes) <= 2


def test_what_is_common_only_late_is_counted_once_more() -> None:
    sets = [frozenset({f"a{n}", f"b{n}"}) for n in range(45)] + [frozenset({"late", f"c{n}"}) for n in range(55)]
    assert in_most(lambda: iter(sets), 0.5, 4) == {"late"}
    early = [frozenset({"early", f"c{n}"}) for n in range(50)] + [frozenset({f"a{n}"}) for n in range(50)]
    assert in_most(lambda: iter(early), 0.5, 4) == frozenset()
    assert in_most(lambda: iter([]), 0.5) == frozenset()


@pytest.mark.parametrize("later", [42, 43])
def test_what_was_forgotten_and_came_back_is_counted_once_more(later: int) -> None:
    """In 8 of the first 40, few enough to be forgotten, and in `later` of the other 60: 50 are not most of 100."""
    early = [frozenset({"back", f"e{n}"} if n % 5 == 4 else {f"e{n}"}) for n in range(40)]
    late = [frozenset({"back", f"l{n}"} if n < later else {f"l{n}"}) for n in range(60)]
    passes: list[int] = []
    found = in_most(lambda: passes.append(1) or iter([*early, *late]), 0.5, 4)
    assert found == ({"back"} if later == 43 else frozenset()) and len(passes) == 2
