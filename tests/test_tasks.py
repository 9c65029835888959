"""What kind of task a set of examples is, and by what it is judged."""

from __future__ import annotations

import csv
import json

import pytest

from weft.errors import DataError, UsageError
from weft.records import Conversation, Message
from weft.tasks import Task, infer


def rows(*pairs: tuple[str, str]) -> list[Conversation]:
    return [Conversation((Message("user", question), Message("assistant", answer))) for question, answer in pairs]


def labelled(count: int = 60, labels: int = 5) -> list[Conversation]:
    return rows(*[(f"message {i}", f"label {i % labels}") for i in range(count)])


def objects(count: int = 60) -> list[Conversation]:
    replies = [f"We will see to your order {i} at once." for i in range(count)]
    answers = [{"kind": "ab"[i % 3 == 0], "order": str(i), "reply": reply} for i, reply in enumerate(replies)]
    return rows(*[(f"order {i} late", json.dumps(answer)) for i, answer in enumerate(answers)])


def letters(count: int = 60) -> list[Conversation]:
    return rows(*[(f"where is {i}", f"It is on the way to you with parcel {i} of today.") for i in range(count)])


def lines(count: int = 60) -> list[Conversation]:
    return rows(*[(f"m {i}", f"Category: {'ab'[i % 2]}\nNumber: {i}") for i in range(count)])


def names(task: Task) -> list[str]:
    return [grader.name for grader in task.graders]


@pytest.mark.parametrize(
    ("examples", "kind", "metric"),
    [
        (labelled(), "classification", "accuracy"),
        (labelled(12, 3), "classification", "accuracy"),
        (labelled(2000, 77), "classification", "accuracy"),
        (objects(), "structured", "accuracy"),
        (lines(), "structured", "accuracy"),
        (letters(), "text", "chrf"),
        (rows(*[("q", f"{i}") for i in range(40)]), "text", "exact_match"),
        (rows(*[("q", '{"a":"x"}')] * 30), "structured", "accuracy"),
        (rows(*[(f"q {i}", "Always the same words here.") for i in range(30)]), "text", "chrf"),
    ],
)
def test_the_kind_follows_from_the_answers(examples: list[Conversation], kind: str, metric: str) -> None:
    task = infer(examples)
    assert (task.kind, task.metric) == (kind, metric)


def test_banking77_is_a_classification_of_77_labels(shared) -> None:
    with (shared / "data/banking77/train.csv").open(encoding="utf-8") as file:
        task = infer(rows(*[(row["text"], row["category"]) for row in csv.DictReader(file)]))
    assert (task.kind, len(task.labels)) == ("classification", 77)


def test_training_answers_get_full_marks_from_their_own_task() -> None:
    for examples in (labelled(), objects(), lines(), letters()):
        task = infer(examples)
        for example in examples:
            assert set(task.grade(example.answer, example.answer).scores.values()) == {1.0}


def test_a_grade_has_the_main_metric_first_and_all_others() -> None:
    grade = infer(objects()).grade("nonsense", objects()[0].answer)
    assert list(grade.scores) == [
        "accuracy",
        "fields.kind",
        "fields.order",
        "fields.reply",
        "exact_match",
        "format_consistency",
    ]
    assert set(grade.scores.values()) == {0.0}


def test_the_constant_is_the_answer_whose_judged_fields_are_most_frequent() -> None:
    answers = [{"kind": "b" if i % 4 else "a", "reply": f"We will see to this at once, {i}."} for i in range(40)]
    examples = rows(*[(f"m {i}", json.dumps(answer)) for i, answer in enumerate(answers)])
    task = infer(examples)
    assert json.loads(task.constant)["kind"] == "b"
    assert infer(labelled(9, 2)).constant == "label 0"


def test_a_grader_given_by_name_becomes_the_main_one() -> None:
    task = infer(letters(), grader="similarity")
    assert (task.metric, names(task)) == ("similarity", ["similarity", "chrf", "exact_match", "format_consistency"])
    assert infer(objects(), grader="exact_match").metric == "exact_match"
    assert infer(labelled(), grader="chrf").grade("label 1", "label 2").scores["accuracy"] == 0.0


def test_a_kind_given_by_name_overrides_what_would_be_inferred() -> None:
    assert infer(labelled(), kind="text").kind == "text"
    assert infer(objects(), kind="text").metric == "chrf"
    mixed = [*objects(30), *letters(20)]
    assert infer(mixed).kind == "text"
    assert infer(mixed, kind="structured").kind == "structured"


def test_classification_of_answers_that_never_return_is_refused() -> None:
    with pytest.raises(UsageError, match=r"60 training answers hold 60 different texts.*look like text"):
        infer(letters(), kind="classification")


def test_structure_is_not_imposed_on_prose() -> None:
    with pytest.raises(UsageError, match=r"0% of the training answers are one JSON object.*--task text"):
        infer(letters(), kind="structured")


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"--task poetry: unknown.*classification, structured, text"):
        infer(letters(), kind="poetry")  # type: ignore[arg-type]


def test_graders_that_cannot_judge_the_answers_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="--grader label needs labels, but the answers are text"):
        infer(letters(), grader="label")
    with pytest.raises(UsageError, match="--grader fields needs answers of JSON"):
        infer(letters(), grader="fields")
    with pytest.raises(UsageError, match="every field of the answers is free text"):
        infer(
            rows(*[("q", json.dumps({"reply": f"We write to you about {i} today."})) for i in range(40)]),
            grader="fields",
        )
    with pytest.raises(UsageError, match=r"--grader rouge: unknown.*label, fields, exact_match, chrf"):
        infer(letters(), grader="rouge")


def test_objects_of_free_fields_alone_are_judged_by_chrf() -> None:
    task = infer(rows(*[("q", json.dumps({"reply": f"We write to you about {i} today."})) for i in range(40)]))
    assert (task.kind, task.metric) == ("structured", "chrf")


def test_no_examples_are_no_task() -> None:
    with pytest.raises(DataError, match="no training examples"):
        infer([])


def test_the_report_gets_labels_or_fields_and_a_sentence() -> None:
    assert infer(labelled()).to_json()["labels"] == [f"label {i}" for i in range(5)]
    stored = infer(objects()).to_json()
    assert [field["name"] for field in stored["fields"]] == ["kind", "order", "reply"]
    assert (
        stored["description"] == "structured: one JSON object; right when kind, order are right; reply judged by chrF"
    )
    assert json.dumps(stored)
