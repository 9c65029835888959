"""Figures of a scorecard against scikit-learn, scipy and paper."""

from __future__ import annotations

import json

import numpy as np
import pytest

from weft.evaluate.compare import wilson
from weft.evaluate.score import confusion, field_table, macro_f1, mean_interval, summarise
from weft.records import Conversation, Grade, Message, Scorecard
from weft.tasks import Task, infer

LABELS = ["red", "green", "blue"]


def task_of(answers: list[str]) -> Task:
    return infer([Conversation((Message("user", f"m {i}"), Message("assistant", a))) for i, a in enumerate(answers)])


def colours() -> Task:
    return task_of(LABELS * 10)


def grades(task: Task, pairs: list[tuple[str, str]]) -> list[Grade]:
    return [task.grade(answer, expected) for answer, expected in pairs]


def test_labels_get_accuracy_first_and_macro_f1_second() -> None:
    found = summarise(colours(), grades(colours(), [("red", "red"), ("red", "blue"), ("none", "green")]))
    assert list(found) == ["accuracy", "macro_f1", "exact_match", "format_consistency"]
    assert found["accuracy"] == wilson(1, 3)
    assert found["format_consistency"] == wilson(2, 3)


def test_macro_f1_is_what_scikit_learn_says() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    expected = [LABELS[i] for i in rng.integers(0, 3, 80)]
    answers = [y if rng.random() < 0.6 else str(rng.choice([*LABELS, "nonsense"])) for y in expected]
    truth = f1_score(expected, answers, labels=LABELS, average="macro")
    found = macro_f1(expected, answers)
    assert found.value == pytest.approx(truth)
    assert found.low < truth < found.high


def test_the_interval_of_macro_f1_agrees_with_a_plain_bootstrap() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(1)
    expected = np.array([LABELS[i] for i in rng.integers(0, 3, 90)])
    answers = np.where(rng.random(90) < 0.7, expected, "red")
    draws = [rng.integers(0, 90, 90) for _ in range(300)]
    truth = np.quantile([f1_score(expected[d], answers[d], average="macro") for d in draws], (0.025, 0.975))
    found = macro_f1(expected.tolist(), answers.tolist())
    assert (found.low, found.high) == pytest.approx(tuple(truth), abs=0.03)


def test_scores_get_a_bootstrap_interval_like_scipys() -> None:
    from scipy.stats import bootstrap

    scores = np.random.default_rng(2).beta(4, 2, size=120)
    truth = bootstrap((scores,), np.mean, method="percentile", rng=0).confidence_interval
    found = mean_interval(scores)
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=0.006)


def test_perfect_scores_keep_an_interval() -> None:
    found = mean_interval(np.ones(30))
    assert found.value == found.high == 1.0
    assert 0.85 < found.low < 0.9  # Wilson: 30 of 30 right does not prove 100 %


def test_the_same_seed_gives_the_same_figures() -> None:
    scores = np.random.default_rng(3).random(40)
    assert mean_interval(scores, seed=1) == mean_interval(scores, seed=1)
    assert mean_interval(scores, seed=1) != mean_interval(scores, seed=2)


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    found = [mean_interval(rng.beta(2, 2, size=50)) for _ in range(60)]
    assert sum(one.low <= 0.5 <= one.high for one in found) >= 52


def test_a_metric_that_only_some_rows_have_is_averaged_over_those() -> None:
    rows = [Grade("red", "red", {"accuracy": 1.0, "log_loss": 0.5}), Grade("red", "blue", {"accuracy": 0.0})]
    assert summarise(colours(), rows)["log_loss"].value == 0.5


def test_no_rows_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no grades to summarise"):
        summarise(colours(), [])


def test_confusion_counts_expected_by_answered_and_keeps_strangers_apart() -> None:
    task = colours()
    found = confusion(task, grades(task, [("red", "red"), ("red", "blue"), ("Red!", "red")]))
    assert found == {
        "labels": ["blue", "green", "red", "(other)"],
        "counts": [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]],
    }
    clean = confusion(task, grades(task, [("red", "red")]))
    assert clean is not None
    assert clean["labels"] == ["blue", "green", "red"]


def test_text_has_no_confusion() -> None:
    task = task_of([f"We write to you about matter {i}." for i in range(20)])
    assert confusion(task, [task.grade("a", "b")]) is None


def test_fields_stand_side_by_side_for_all_arms() -> None:
    task = task_of([json.dumps({"kind": "ab"[i % 2], "code": str(i)}) for i in range(40)])
    rows = grades(task, [('{"kind": "a", "code": "1"}', '{"kind": "a", "code": "2"}')])
    cards = [Scorecard(arm, "test", tuple(rows), summarise(task, rows), 0, 0) for arm in ("tuned", "rag")]
    table = field_table(task, cards)
    assert table is not None
    assert [(row["field"], row["arms"]["rag"]["value"]) for row in table] == [("kind", 1.0), ("code", 0.0)]
    assert list(table[0]["arms"]) == ["tuned", "rag"]
    assert field_table(colours(), cards) is None
