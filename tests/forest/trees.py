"""What the tests of the forest are drawn from: rows that share beginnings in every way that batches do.

Short forms run in the default suite and are the same each time; long ones, with other examples each time, by `-m slow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.records import Tokens


def forms(short: int, long: int) -> pytest.MarkDecorator:
    """Run a test twice: with `examples` = short by default, with long behind `slow`."""
    values = [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("examples", values)


def for_all(examples: int, **drawn: st.SearchStrategy) -> Callable[[Callable[..., None]], None]:
    """Decorate a function to have it called at once with so many drawn examples."""
    chosen = settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples <= 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda check: chosen(given(**drawn)(check))()


@st.composite
def forests(draw: st.DrawFn, *, learning: bool = False, longest: int = 9, alphabet: int = 3) -> list[Tokens]:
    """Up to eight rows over a tiny alphabet: stems grow from stems, rows end on a stem or some tokens behind one.

    With `learning` at least one token is learned.
    """
    token = st.integers(0, alphabet - 1)
    stems: list[list[int]] = [[]]
    for _ in range(draw(st.integers(0, 4))):
        stems.append(draw(st.sampled_from(stems)) + draw(st.lists(token, max_size=longest)))
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        ids = draw(st.sampled_from(stems)) + draw(st.lists(token, max_size=longest))
        ids = ids or [draw(token)]
        learn = [False] + [draw(st.booleans()) for _ in ids[1:]]
        rows.append(Tokens(tuple(ids), tuple(learn)))
    if learning and not any(any(row.learn) for row in rows):
        rows.append(Tokens((*rows[0].ids, 0), (False, *[False] * (len(rows[0].ids) - 1), True)))
    return rows


def row(*ids: int, learn: int = 1) -> Tokens:
    """A row that learns its last so many tokens; the first is never one of them."""
    return Tokens(ids, tuple(place >= max(1, len(ids) - learn) for place in range(len(ids))))


def seen_by_rows(places: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(T, T) true where the token sees the column's, told from the rows alone, without any tree."""
    seen = np.zeros((size, size), dtype=bool)
    for place in places:
        for last, here in enumerate(place):
            seen[here, place[: last + 1]] = True
    return seen
