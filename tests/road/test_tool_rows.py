"""Rows with tools on the road: learned by a base whose template has them, refused by name where nothing can be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.calling import BRIEF, TOOL, call_row, said
from weft.data.read import read
from weft.errors import ModelError, UsageError
from weft.generate.engine import Request, answer
from weft.generate.sampling_config import Sampling
from weft.models.load import load
from weft.progress import Silent
from weft.records import Message
from weft.road.side_by_side import side_by_side
from weft.road.whole import train_only, whole
from weft.testing import save_base


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny base, with a template that knows tools."""
    return str(save_base(tmp_path_factory.mktemp("base") / "calling", template=BRIEF))


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: Any) -> str:
    """Messages, each answered by a call of the tool with the first letter of the message's topic."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(call_row(question, topic[0])) for question, topic in topics()]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return "rows.jsonl"


def test_a_base_learns_which_tool_to_call_and_with_what(rows: str, calling: str, learn: dict[str, Any]) -> None:
    _, record = train_only(
        rows, "run", None, {"base": calling, **learn, "full": True, "learning_rate": 3e-3, "epochs": 10}, Silent()
    )
    assert record["rows_with_tools"] == 100
    base = load("run/model")
    asked = [("parcel nobody", "shipping"), ("login nobody", "account"), ("invoice nobody", "billing")]
    prompts = [Request(tuple(base.chat.prompt([Message("user", question)], [TOOL]))) for question, _ in asked]
    answers = [base.chat.decode(result.ids) for result in answer(base, prompts, Sampling(max_tokens=80))]
    assert answers == [said(topic[0]) for _, topic in asked]


def test_what_cannot_be_compared_is_said_before_anything_is_done(
    rows: str, calling: str, tiny: str, brief: dict[str, Any]
) -> None:
    told = r"rows.jsonl: 100 of its 100 rows have tools \(lines 1, .*do not compare calls .*weft train .*rows.jsonl"
    with pytest.raises(UsageError, match=told):
        whole(rows, "run", None, {"base": calling}, Silent())
    assert not Path("run").exists()
    train_only(rows, "learned", None, {"base": calling, **brief}, Silent())
    with pytest.raises(UsageError, match=told):
        side_by_side(["learned"], Silent())
    with pytest.raises(UsageError, match=r"--stop-on accuracy: 77 of the examples have tools .*Choose loss"):
        train_only(rows, "stopping", None, {"base": calling, **brief, "stop_on": "accuracy"}, Silent())


def test_a_base_without_tools_does_not_learn_half_of_the_rows(rows: str, tiny: str, brief: dict[str, Any]) -> None:
    plain = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    with Path(rows).open("a") as file:
        file.write(plain + "\n")
    told = r"cannot learn this file:\n  100 examples have no place in the base's chat template \(lines 1, 2, 3 and 97"
    with pytest.raises(ModelError, match=f"(?s){told}.*knows no tools.*leave these rows out"):
        train_only(rows, "run", None, {"base": tiny, **brief}, Silent())
    assert not Path("run").exists()
    assert len(read(Path(rows)).examples) == 101
