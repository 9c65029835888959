"""The verdict is honest: each set of examples ends in what is true of it, on real runs of the whole road."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from weft.progress import Silent
from weft.road.whole import whole


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, tiny: str, topics: Any, write_json: Any, learn: dict[str, Any]
) -> dict[str, Any]:
    """A run on which a base that knew nothing learned everything, as a whole model."""
    folder = tmp_path_factory.mktemp("taught")
    write_json(folder / "topics.jsonl", topics())
    return whole(
        str(folder / "topics.jsonl"), str(folder / "run"), None, {"base": tiny, "full": True, **learn}, Silent()
    )


def test_what_only_training_solves_ends_in_fine_tune(taught: dict[str, Any]) -> None:
    arms = {arm["name"]: arm["metrics"]["accuracy"]["value"] for arm in taught["arms"]}
    assert taught["verdict"]["choice"] == "fine-tune"
    assert arms["tuned"] == 1.0
    # Held to the schema, a base that knows nothing guesses among the topics.
    assert max(value for name, value in arms.items() if name != "tuned") <= taught["verdict"]["control"]["high"]
    assert {arm["n"] for arm in taught["arms"]} == {taught["data"]["test"]}
    assert taught["verdict"]["comparison"]["p"] < 0.001


@pytest.mark.slow
def test_tickets_whose_answers_are_shuffled_do_not_end_in_fine_tune(root: Path, tmp_path: Path) -> None:
    """With the embedded base and default settings, as a user would; minutes."""
    lines = (root / "examples" / "tickets" / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    questions, answers = zip(*(json.loads(line)["messages"] for line in lines), strict=True)
    answers = random.Random(0).sample(answers, len(answers))
    rows = [json.dumps({"messages": pair}) for pair in zip(questions, answers, strict=True)]
    (tmp_path / "shuffled.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    report = whole(str(tmp_path / "shuffled.jsonl"), str(tmp_path / "run"), None, {}, Silent())
    assert report["verdict"]["choice"] in ("none", "more-data")
    assert len(report["arms"]) == 4


def test_what_a_prompt_answers_already_ends_in_prompt(
    taught: dict[str, Any], run_road: Any, tmp_path: Path, topics: Any, write_json: Any, brief: dict[str, Any]
) -> None:
    data = write_json(tmp_path / "topics.jsonl", topics())
    report = run_road(data, base=taught["adapter"], **brief)
    arms = {arm["name"]: arm["metrics"]["accuracy"]["value"] for arm in report["arms"]}
    assert arms["zero-shot"] == 1.0
    assert report["verdict"]["choice"] == "prompt"
    assert "suffices as it is" in report["verdict"]["reason"]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["json", "labels"])
def test_shuffled_answers_never_end_in_fine_tune(
    run_road: Any, tmp_path: Path, topics: Any, write_json: Any, write_labels: Any, learn: Any, form: str, seed: int
) -> None:
    questions, answers = zip(*topics(), strict=True)
    answers = random.Random(seed).sample(answers, len(answers))
    rows = list(zip(questions, answers, strict=True))
    data = write_json(tmp_path / "a.jsonl", rows) if form == "json" else write_labels(tmp_path / "a.csv", rows)
    report = run_road(data, **{**learn, "epochs": 4})
    assert report["verdict"]["choice"] in ("none", "more-data")
    assert report["verdict"]["arm"] is None


def test_labels_that_words_tell_end_in_classical(
    run_road: Any, tmp_path: Path, topics: Any, write_labels: Any, brief: dict[str, Any]
) -> None:
    report = run_road(write_labels(tmp_path / "intents.csv", topics()), **brief)
    assert report["task"]["kind"] == "classification"
    assert report["verdict"]["choice"] == "classical"
    classical = next(arm for arm in report["arms"] if arm["name"] == "classical")
    assert (classical["metrics"]["accuracy"]["value"], classical["tokens_per_request"]) == (1.0, 0.0)


def test_twelve_rows_end_in_more_data_before_anything_is_measured(
    run_road: Any, tmp_path: Path, topics: Any, write_json: Any
) -> None:
    report = run_road(write_json(tmp_path / "few.jsonl", topics(12)))
    assert report["verdict"]["choice"] == "more-data"
    assert (report["arms"], report["training"], report["adapter"]) == ([], None, None)
    assert "12 usable ones" in report["verdict"]["reason"]


@pytest.mark.parametrize("same_question", [False, True])
def test_identical_answers_are_said_to_be_nothing_to_learn(
    run_road: Any, tmp_path: Path, topics: Any, write_json: Any, same_question: bool
) -> None:
    rows = [("hello" if same_question else question, "billing") for question, _ in topics(60)]
    report = run_road(write_json(tmp_path / "same.jsonl", rows))
    assert report["verdict"]["choice"] == "none"
    assert "all" in report["verdict"]["reason"] and "are the same" in report["verdict"]["reason"]
    assert json.loads((tmp_path / "run/report.json").read_text()) == report
    assert (tmp_path / "run/report.html").stat().st_size > 1000
