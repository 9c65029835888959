"""What a split promises: nothing leaks, nothing is lost, labels are everywhere, and old rows stay where they were."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from weft.data import near
from weft.data import split as split_module
from weft.data.read import read
from weft.data.split import split
from weft.errors import UsageError
from weft.records import Conversation, Message, Split


def example(question: str, answer: str = "yes", line: int = 0) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), line)


def made(number: int, labels: int = 4, seed: int = 0) -> list[Conversation]:
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(6 * number)]
    return [example(" ".join(words[6 * n : 6 * n + 6]), f"label {n % labels}", n + 1) for n in range(number)]


def places(parts: Split) -> dict[int, str]:
    return {row.line: name for name in ("train", "validation", "test") for row in getattr(parts, name)}


def answers(rows: list[Conversation]) -> list[str]:
    return [row.answer for row in rows]


def test_each_row_is_in_exactly_one_part_in_file_order() -> None:
    rows = made(300)
    parts = split(rows, labels=answers(rows))
    together = [row.line for part in (parts.train, parts.validation, parts.test) for row in part]
    assert sorted(together) == list(range(1, 301))
    for part in (parts.train, parts.validation, parts.test):
        assert [row.line for row in part] == sorted(row.line for row in part)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_close_to_those_wanted(seed: int) -> None:
    rows = made(1000, seed=seed)
    parts = split(rows, labels=answers(rows), seed=seed)
    assert len(parts.test) / 1000 == pytest.approx(0.2, abs=0.04)
    assert len(parts.validation) / 1000 == pytest.approx(0.1, abs=0.03)


def test_near_duplicates_stay_in_one_split() -> None:
    rows = made(200)
    rows += [example(row.question.title() + "!", row.answer, row.line + 1000) for row in rows]
    rows += [example(row.question + " x", row.answer, row.line + 2000) for row in rows[:200]]
    where = places(split(rows))
    assert len({where[line] for line in range(1, 201)}) == 3
    assert all(where[line] == where[line + 1000] == where[line + 2000] for line in range(1, 201))


def test_the_same_question_with_different_answers_stays_in_one_split() -> None:
    rows = made(199)
    rows += [example(row.question, "other", row.line + 1000) for row in rows]
    where = places(split(rows, labels=answers(rows)))
    assert all(where[n] == where[n + 1000] for n in range(1, 200))


def test_a_short_last_turn_does_not_make_dialogues_one_question() -> None:
    rows = [
        Conversation(
            (Message("user", row.question), Message("assistant", "?"), Message("user", "yes"), *row.messages[1:])
        )
        for row in made(100)
    ]
    assert len(split(rows).test) > 5


@pytest.mark.parametrize("seed", range(5))
def test_every_label_with_ten_clusters_is_in_all_parts(seed: int) -> None:
    rows = made(300, labels=25, seed=seed)
    parts = split(rows, labels=answers(rows), seed=seed)
    for part in (parts.train, parts.validation, parts.test):
        assert len({row.answer for row in part}) == 25


def test_adding_rows_leaves_old_rows_where_they_were() -> None:
    rows = made(1000)
    few, many = split(rows[:500], labels=answers(rows[:500])), split(rows, labels=answers(rows))
    before, after = places(few), places(many)
    assert [line for line in before if before[line] != after[line]] == []


def test_a_row_that_joins_a_cluster_can_move_that_cluster_and_nothing_else() -> None:
    rows = made(300)
    joined = example(rows[0].question + " x", line=999)
    before, after = places(split(rows)), places(split([*rows, joined]))
    assert after[999] == after[1]
    assert {line for line in before if before[line] != after[line]} <= {1}


def test_the_order_of_rows_does_not_count() -> None:
    rows = made(200)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert places(split(rows)) == places(split(shuffled))


def test_another_seed_gives_another_split() -> None:
    rows = made(200)
    assert places(split(rows, seed=1)) == places(split(rows, seed=1)) != places(split(rows, seed=2))


@pytest.mark.parametrize("number", [3, 5, 10, 12, 30])
@pytest.mark.parametrize("seed", range(5))
def test_no_part_of_a_small_set_is_empty(number: int, seed: int) -> None:
    rows = made(number, labels=3, seed=seed)
    for labels in (None, answers(rows)):
        parts = split(rows, labels=labels, seed=seed)
        assert parts.train and parts.validation and parts.test


def test_one_question_alone_is_all_train() -> None:
    parts = split([example("where is my kettle", line=n) for n in range(50)])
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (50, 0, 0)


def test_an_exact_repetition_counts_once_in_validation_and_test_only() -> None:
    rows = made(100)
    parts = split(rows + [Conversation(row.messages, row.line + 100) for row in rows])
    once = split(rows)
    assert (parts.validation, parts.test) == (once.validation, once.test)
    assert len(parts.train) == 2 * len(once.train)


def test_very_large_parts_are_cut_by_hash_and_the_rest_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made(400, labels=20)
    free = split(rows, labels=answers(rows))
    monkeypatch.setattr(split_module, "MAX_TEST", 40)
    monkeypatch.setattr(split_module, "MAX_VALIDATION", 25)
    cut = split(rows, labels=answers(rows))
    assert (len(cut.test), len(cut.validation)) == (40, 25)
    assert set(cut.test) <= set(free.test)
    assert {row.answer for row in cut.test} == {row.answer for row in rows}
    assert len(cut.train) == 400 - 65


def test_impossible_requests_are_refused() -> None:
    rows = made(10)
    with pytest.raises(UsageError, match=r"validation=0\.5 and test=0\.5; expected shares above 0, together below 1"):
        split(rows, validation=0.5, test=0.5)
    with pytest.raises(UsageError, match="3 labels for 10 examples"):
        split(rows, labels=["a", "b", "c"])


def test_real_labels_are_split_evenly_without_a_leak(shared: Path) -> None:
    rows = read(shared / "data" / "banking77" / "train.csv").examples[::3]
    parts = split(rows, labels=answers(list(rows)))
    assert len(parts.test) == pytest.approx(0.2 * len(rows), rel=0.05)
    for part in (parts.train, parts.validation, parts.test):
        assert len({row.answer for row in part}) == 77
    kept = [*parts.train, *parts.validation, *parts.test]
    names = Counter(name for name in ("train", "validation", "test") for _ in getattr(parts, name))
    where = [name for name in ("train", "validation", "test") for _ in range(names[name])]
    parts_of: dict[int, set[str]] = {}
    for cluster, name in zip(near.clusters([row.question for row in kept]), where, strict=True):
        parts_of.setdefault(cluster, set()).add(name)
    assert all(len(own) == 1 for own in parts_of.values())
