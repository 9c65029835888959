"""Measuring an arm: every row counts, the loss is transformers' own, the best candidate is chosen on validation."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import pytest
import torch

from weft import tasks
from weft.evaluate.arms import Arm
from weft.evaluate.arms.zero_shot import zero_shot
from weft.evaluate.run import Asking, answer_limit, best_on_validation, measure, measure_predictor
from weft.generate.constrain import Grammars
from weft.generate.engine import Result
from weft.models.load import Base
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.testing import tiny_base


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _rows(count: int, longest: int = 3) -> list[Conversation]:
    """Free answers; row n has n mod `longest` extra words."""
    return [
        Conversation(
            (Message("user", f"q{n}" + " word" * (n % longest)), Message("assistant", f"answer {n * n}")), n + 1
        )
        for n in range(count)
    ]


BASE: Base = tiny_base()
ROWS = _rows(12)
TASK = tasks.infer(ROWS)


def _answers(monkeypatch: pytest.MonkeyPatch, *texts: str, reason: Any = "stop") -> None:
    """The engine answers with these texts, row by row."""

    def fake(base: Base, requests: Any, sampling: Any, on_done: Any) -> list[Result]:
        on_done(len(requests))
        return [Result(tuple(text.encode()), reason, None) for text in texts[: len(requests)]]

    monkeypatch.setattr("weft.evaluate.run.answer", fake)
    monkeypatch.setattr(type(BASE.chat), "decode", lambda self, ids: bytes(ids).decode())


def test_every_row_is_answered_and_its_expected_answer_scored_as_transformers_does() -> None:
    card = measure(BASE, zero_shot(), ROWS, Asking(TASK, 8), "test", Silent())
    assert [grade.expected for grade in card.grades] == [row.answer for row in ROWS]
    for row, grade in zip(ROWS, card.grades, strict=True):
        tokens = BASE.chat.example(row.messages)
        ids = torch.tensor([tokens.ids])
        with torch.no_grad():
            loss = BASE.model(ids, labels=torch.where(torch.tensor([tokens.learn]), ids, -100)).loss
        assert grade.scores["log_loss"] == pytest.approx(float(loss), abs=1e-4)
    assert card.metrics["log_loss"].value == pytest.approx(
        sum(grade.scores["log_loss"] for grade in card.grades) / len(ROWS)
    )
    assert (card.arm, card.split, card.details["answer_limit"]) == ("zero-shot", "test", 8)


def test_a_row_that_does_not_fit_counts_as_wrong_and_is_named() -> None:
    long = Conversation((Message("user", "x" * 300), Message("assistant", "answer 1")), 99)
    card = measure(BASE, zero_shot(), [*ROWS, long], Asking(TASK, 8), "test", Silent())
    assert card.details["too_long"] == [99]
    assert (card.grades[-1].answer, len(card.grades)) == ("", 13)
    assert "log_loss" not in card.grades[-1].scores
    card = measure(BASE, zero_shot(), [long], Asking(TASK, 8), "test", Silent())
    assert (card.details["too_long"], card.tokens_per_request) == ([99], 0.0)


def test_right_answers_are_counted_and_tokens_are_those_of_prompt_and_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [row.answer if n < 9 else "something else" for n, row in enumerate(ROWS)]
    _answers(monkeypatch, *given)
    card = measure(BASE, zero_shot(), ROWS, Asking(TASK, 20), "test", Silent())
    assert card.metrics["exact_match"].value == 0.75
    spent = sum(len(BASE.chat.prompt(row.prompt)) + len(text) + 1 for row, text in zip(ROWS, given, strict=True))
    assert card.tokens_per_request == pytest.approx(spent / 12)
    assert "cut_at_limit" not in card.details
    _answers(monkeypatch, *given, reason="length")
    assert measure(BASE, zero_shot(), ROWS, Asking(TASK, 20), "test", Silent()).details["cut_at_limit"] == 12


def test_answers_that_are_held_to_a_form_have_it_and_the_unaided_ones_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [f'{{"n":{n}}}' for n in range(12)]
    rows = [
        Conversation((Message("user", f"q{n}"), Message("assistant", text)), n + 1) for n, text in enumerate(answers)
    ]
    task = tasks.infer(rows)
    with closing(Grammars(BASE.chat.tokenizer, BASE.vocabulary, BASE.chat.end_ids, seconds=60)) as grammars:
        asking = Asking(task, 60, grammars.regex(r'\{"n":[0-9]\}'))
    card = measure(BASE, zero_shot(), rows, asking, "test", Silent())
    assert [card.metrics[name].value for name in ("format_consistency", "format_unaided")] == [1.0, 0.0]
    given = [(text, number % 3 > 0) for number, text in enumerate([*answers[:9], "no", "no", "no"])]

    def fake(base: Base, requests: Any, sampling: Any, on_done: Any) -> list[Result]:
        assert all(request.constraint is asking.constraint for request in requests)
        return [Result(tuple(text.encode()), "stop", None, unaided) for text, unaided in given]

    monkeypatch.setattr("weft.evaluate.run.answer", fake)
    monkeypatch.setattr(type(BASE.chat), "decode", lambda self, ids: bytes(ids).decode())
    card = measure(BASE, zero_shot(), rows, asking, "test", Silent())
    assert [grade.scores["format_unaided"] for grade in card.grades] == [0, 1, 1] * 3 + [0] * 3


def test_the_limit_of_an_answer_follows_the_training_answers() -> None:
    longest = max(len(row.answer) for row in ROWS) + 1  # bytes, and the end token
    assert answer_limit(BASE.chat, ROWS, 256) == math.ceil(1.1 * longest) + 4
    assert answer_limit(BASE.chat, ROWS, 256, 2.0) == 2 * longest + 4
    assert answer_limit(BASE.chat, ROWS, 20) == 10


def test_the_candidate_that_is_right_more_often_is_chosen_and_all_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidate(name: str) -> Arm:
        return Arm("prompted", lambda row: (Message("system", name), *row.prompt), {"candidate": name})

    letters = {BASE.chat.tokenizer.convert_tokens_to_ids(letter): letter for letter in "good"}

    def fake(base: Base, requests: Any, *_: Any) -> list[Result]:
        good = ["good" in "".join(letters.get(i, "") for i in request.prompt) for request in requests]
        return [Result((1,) if right else (), "stop", 0.5) for right in good]

    monkeypatch.setattr("weft.evaluate.run.answer", fake)
    monkeypatch.setattr(type(BASE.chat), "decode", lambda self, ids: ROWS[0].answer if ids else "")
    chosen = best_on_validation(BASE, [candidate("bad"), candidate("good")], ROWS[:1], Asking(TASK, 8), Silent())
    assert chosen.details["candidate"] == "good"
    assert [entry["candidate"] for entry in chosen.details["tried"]] == ["bad", "good"]
    assert chosen.details["tried"][1][TASK.metric] > chosen.details["tried"][0][TASK.metric]


def test_equally_right_candidates_are_told_apart_by_their_loss() -> None:
    silent = Arm("prompted", lambda row: (Message("system", "zz"), *row.prompt), {"candidate": "one"})
    other = Arm("prompted", lambda row: (Message("system", "q answer 4 9 16"), *row.prompt), {"candidate": "two"})
    losses = {
        arm.details["candidate"]: measure(BASE, arm, ROWS, Asking(TASK, 1), "validation", Silent())
        .metrics["log_loss"]
        .value
        for arm in (silent, other)
    }
    task = tasks.infer(ROWS, grader="exact_match")
    chosen = best_on_validation(BASE, [silent, other], ROWS, Asking(task, 1), Silent())
    assert chosen.details["candidate"] == min(losses, key=lambda name: losses[name])


def test_a_predictor_costs_no_tokens() -> None:
    rows = [Conversation((Message("user", f"q{n}"), Message("assistant", "ab"[n % 2])), n + 1) for n in range(20)]
    task = tasks.infer(rows)
    card = measure_predictor("classical", lambda texts: ["a"] * len(texts), rows, task, "test", {"C": 1.0}, Silent())
    assert (card.metrics["accuracy"].value, card.tokens_per_request, card.details) == (0.5, 0.0, {"C": 1.0})
    assert {"accuracy", "macro_f1", "format_consistency"} <= card.metrics.keys()
