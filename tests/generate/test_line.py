"""The waiting line: turns, bounds and shares."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.generate.line import HARD, Line
from weft.generate.requests import Draw, Full, Generation, Limits


@dataclass(eq=False)
class Waits:
    generation: Generation


def waits(owner: str, tokens: int = 1) -> Waits:
    return Waits(Generation((1,) * tokens, Draw(1), owner=owner))


def line(waiting: int = 100, waiting_tokens: int = 10_000) -> Line[Waits]:
    return Line(Limits(waiting=waiting, waiting_tokens=waiting_tokens))


def test_owners_take_turns_and_each_is_served_in_order() -> None:
    queue, rows = line(), [waits(owner) for owner in "aaaabbc"]
    for row in rows:
        queue.add(row, 1)
    taken = []
    while row := queue.next(lambda row: True):
        taken.append(row)
    assert [row.generation.owner for row in taken] == list("abcabaa")
    assert [row for row in taken if row.generation.owner == "a"] == rows[:4]
    assert queue.rows == queue.tokens == 0


def test_one_that_is_not_ready_is_passed_by() -> None:
    queue, slow, quick = line(), waits("a"), waits("a")
    queue.add(slow, 1), queue.add(quick, 1)
    assert queue.next(lambda row: row is not slow) is quick
    assert queue.next(lambda row: row is not slow) is None
    assert queue.next(lambda row: True) is slow


def test_a_full_line_refuses_and_says_when_to_come_again() -> None:
    queue = line(waiting=3)
    for _ in range(3):
        queue.add(waits("a"), 1)
    with pytest.raises(
        Full, match=r"full: 3 requests, 3 of them yours, at most 3 together. Try again in 7 s"
    ) as refusal:
        queue.add(waits("a"), 7.0)
    assert refusal.value.retry_after == 7.0 and queue.rows == 3


def test_prompt_tokens_are_bounded_too() -> None:
    queue = line(waiting_tokens=100)
    queue.add(waits("a", 70), 1)
    with pytest.raises(Full, match="full: 70 prompt tokens, 70 of them yours, at most 100 together"):
        queue.add(waits("a", 31), 1)
    queue.add(waits("a", 30), 1)


def test_a_request_larger_than_the_line_may_wait_alone() -> None:
    queue = line(waiting_tokens=10)
    queue.add(waits("a", 50), 1)
    with pytest.raises(Full):
        queue.add(waits("b", 1), 1)


def test_nobody_can_fill_the_line_for_everybody_else() -> None:
    queue = line(waiting=8)
    for _ in range(8):
        queue.add(waits("greedy"), 1)
    for _ in range(4):
        queue.add(waits("late"), 1)
    with pytest.raises(Full):
        queue.add(waits("late"), 1)
    with pytest.raises(Full):
        queue.add(waits("greedy"), 1)


def test_one_that_leaves_makes_room() -> None:
    queue, row = line(waiting=1), waits("a")
    queue.add(row, 1)
    queue.remove(row)
    queue.remove(row)
    queue.add(waits("a"), 1)
    assert queue.rows == 1


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 40)), max_size=80))
def test_the_line_is_bounded_whatever_comes(arrivals: list[tuple[str, int]]) -> None:
    queue = line(waiting=6, waiting_tokens=60)
    for owner, tokens in arrivals:
        try:
            queue.add(waits(owner, tokens), 1)
        except Full:
            assert queue.rows > 0
    assert queue.rows <= HARD * 6 and queue.tokens <= HARD * 60
    assert queue.rows == len(list(queue)) and queue.tokens == sum(len(row.generation.prompt) for row in queue)
