"""Structured outputs: all arms answer under the schema of the training answers, or it is said why they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from weft.errors import DamageError, ResourceError
from weft.models.load import load
from weft.progress import Silent
from weft.records import Message
from weft.road import structured
from weft.road.open import open_model
from weft.road.prepare import Prepared, prepare
from weft.road.settings import DataConfig
from weft.runs import Run


class Heard(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text.strip())


@pytest.fixture
def prepared(tmp_path: Path, tiny: str) -> Callable[[Sequence[str]], Prepared]:
    """The answers to forty different questions, prepared for the tiny base."""
    base = load(tiny)

    def make(answers: Sequence[str]) -> Prepared:
        lines = [
            json.dumps({"prompt": f"what is {n * n * 7919}", "completion": text}) for n, text in enumerate(answers)
        ]
        (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
        return prepare(tmp_path / "a.jsonl", DataConfig(), base.chat, base.context, Silent())

    return make


def values(count: int = 40) -> list[dict[str, Any]]:
    return [{"kind": "abc"[n % 3], "id": f"N-{n * n}"} for n in range(count)]


@pytest.mark.parametrize(("separators", "blank"), [((",", ":"), False), ((", ", ": "), True)])
def test_answers_are_held_to_the_way_in_which_all_training_answers_are_written(
    prepared: Any, tiny: str, separators: tuple[str, str], blank: bool
) -> None:
    base = load(tiny)
    form = structured.find(base, prepared([json.dumps(row, separators=separators) for row in values()]), Silent())
    assert form is not None
    assert form.schema["properties"]["kind"] == {"enum": ["a", "b", "c"]}
    assert ("x-guidance" in form.schema) == blank
    tokens = base.chat.tokenizer.encode
    for other in ((",", ":"), (", ", ": ")):
        assert form.constraint.accepts(tokens(json.dumps(values()[0], separators=other))) == (other == separators)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([json.dumps(row, indent=n % 2 or None) for n, row in enumerate(values())], "not all written in one way"),
        (
            [json.dumps(dict(sorted(row.items(), reverse=n % 2 == 0))) for n, row in enumerate(values())],
            "no fixed order",
        ),
        ([row["kind"] for row in values()], ""),
        ([f"Kind: {row['kind']}\nId: {row['id']}" for row in values()], ""),
    ],
)
def test_other_answers_are_not_held_and_json_says_why(prepared: Any, tiny: str, answers: list[str], said: str) -> None:
    heard = Heard()
    assert structured.find(load(tiny), prepared(answers), heard) is None
    if said:
        (line,) = heard.said
        assert line.startswith("answers are not held to a JSON schema: ") and said in line
    else:
        assert heard.said == []


def test_a_tokenizer_that_the_grammar_engine_cannot_follow_leaves_answers_free(
    prepared: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, schema: Any) -> None:
        raise ResourceError("the process that tries response formats could not be started.")

    monkeypatch.setattr("weft.generate.constrain.Grammars.json_schema", fail)
    heard = Heard()
    assert structured.find(load(tiny), prepared([json.dumps(row) for row in values()]), heard) is None
    assert heard.said == [
        "answers are not held to a JSON schema: the process that tries response formats could not be started"
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny: str, topics: Any, write_json: Any) -> Path:
    """A run on JSON answers whose training was too short to learn their form."""
    from weft.road.whole import whole

    folder = tmp_path_factory.mktemp("ran")
    write_json(folder / "data.jsonl", topics(80))
    whole(str(folder / "data.jsonl"), str(folder / "run"), None, {"base": tiny, "epochs": 1}, Silent())
    return folder / "run"


def test_every_arm_keeps_the_form_and_the_report_says_how_often_unaided(ran: Path) -> None:
    report = json.loads((ran / "report.json").read_text())
    assert report["schema"] == json.loads((ran / "schema.json").read_text())
    assert report["use"]["schema"] == f"{ran}/schema.json"
    for arm in report["arms"]:
        assert arm["metrics"]["format_consistency"]["value"] == 1.0
        assert arm["metrics"]["format_unaided"]["value"] == 0.0
    assert "held to the JSON schema" in (ran / "report.html").read_text()


def test_a_runs_model_is_talked_to_as_it_was_measured(ran: Path) -> None:
    from weft.generate.engine import stream
    from weft.generate.sampling_config import Sampling

    opened = open_model(str(ran))
    assert opened.constraint is not None
    prompt = opened.base.chat.prompt([Message("user", "invoice bo")])
    text = opened.base.chat.decode(list(stream(opened.base, prompt, Sampling(max_tokens=60), opened.constraint)))
    assert list(json.loads(text)) == ["topic"]
    assert open_model(str(ran / "adapter")).constraint is None


def test_without_structured_outputs_nothing_is_held(
    run_road: Any, tmp_path: Path, topics: Any, write_json: Any
) -> None:
    report = run_road(write_json(tmp_path / "a.jsonl", topics(80)), structured_outputs=False, epochs=1)
    assert report["schema"] is None and "schema" not in report["use"]
    assert all("format_unaided" not in arm["metrics"] for arm in report["arms"])
    assert max(arm["metrics"]["format_consistency"]["value"] for arm in report["arms"]) == 0.0
    assert not (tmp_path / "run" / "schema.json").exists()


def test_a_damaged_schema_is_named(ran: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / structured.SCHEMA).write_text("{")
    with pytest.raises(DamageError, match=r"schema\.json"):
        structured.of_run(run, load(json.loads((ran / "settings.json").read_text())["run"]["base"]["value"]))
