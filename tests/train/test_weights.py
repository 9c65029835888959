"""Per-message weights say which answers are learned; masks are those of a computation that knows no template code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.fingerprint import content_hash
from weft.data.mend import mend, write_jsonl
from weft.data.read import read
from weft.errors import DataError
from weft.models.chat import Chat
from weft.records import Conversation, Message, Tokens
from weft.testing import byte_tokenizer, tiny_base
from weft.train.rows import Rows
from weft.train.sft_config import SftConfig

CHAT = Chat(byte_tokenizer())


def _masked(turns: list[tuple[str, str, int | None]], learn: str) -> list[tuple[str, bool]]:
    """(character or mark, learned?) as ChatML writes these turns: nothing here but the format and the API's rule."""
    answers = [place for place, (role, _, _) in enumerate(turns) if role == "assistant"]
    weighed = any(weight is not None for _, _, weight in turns)
    wanted = [p for p in answers if turns[p][2] != 0] if weighed else answers if learn == "all" else answers[-1:]
    out: list[tuple[str, bool]] = []
    for place, (role, text, _) in enumerate(turns):
        body = [(letter, place in wanted) for letter in [*text, "<|im_end|>"]]
        head = [(letter, False) for letter in ["<|im_start|>", *role, "\n"]]
        out += [*head, *(body if role == "assistant" else [(letter, False) for letter, _ in body]), ("\n", False)]
    return out[:-1]  # nothing is fed behind the last answer's end


def _written(tokens: Tokens) -> list[tuple[str, bool]]:
    names = CHAT.tokenizer.convert_ids_to_tokens(list(tokens.ids))
    return [({"Ċ": "\n"}.get(name, name), learn) for name, learn in zip(names, tokens.learn, strict=True)]


@st.composite
def _conversations(draw: Any) -> list[tuple[str, str, int | None]]:
    text = st.text("abcz", min_size=1, max_size=4)
    turns: list[tuple[str, str, int | None]] = [("system", draw(text), None)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns.append(("user", draw(text), None))
        turns.append(("assistant", draw(text), draw(st.sampled_from([None, 0, 1]))))
    return turns


@settings(max_examples=80, deadline=None)
@given(turns=_conversations(), learn=st.sampled_from(["last", "all"]))
def test_masks_are_those_of_an_independent_computation(turns: list[tuple[str, str, int | None]], learn: Any) -> None:
    example = Conversation(tuple(Message(role, text, weight) for role, text, weight in turns))  # type: ignore[arg-type]
    assert _written(CHAT.example(example.messages, learn=example.learned(learn))) == _masked(turns, learn)


@settings(max_examples=40, deadline=None)
@given(turns=_conversations())
def test_a_file_teaches_the_same_as_its_rows_say(
    tmp_path_factory: Any, turns: list[tuple[str, str, int | None]]
) -> None:
    if all(weight == 0 for role, _, weight in turns if role == "assistant"):
        return
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    messages = [{"role": r, "content": t} | ({} if w is None else {"weight": w}) for r, t, w in turns]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    (example,) = read(path).examples
    row = _written(CHAT.example(example.messages, learn=example.learned("all")))
    whole = _masked(turns, "all")
    assert row == whole[: len(row)] and not any(learn for _, learn in whole[len(row) :])
    assert row[-1] == ("<|im_end|>", True)  # the ideal answer is one that is learned


def _row(*weights: int | None) -> dict[str, Any]:
    messages = []
    for number, weight in enumerate(weights):
        messages.append({"role": "user", "content": f"ask {number}"})
        messages.append(
            {"role": "assistant", "content": f"say {number}"} | ({} if weight is None else {"weight": weight})
        )
    return {"messages": messages}


def _file(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_training_goes_by_the_weights_whatever_it_is_told_otherwise(tmp_path: Path) -> None:
    examples = read(_file(tmp_path, _row(0, 1), _row(1, 1), _row(None, 1), _row(None, None))).examples
    base = tiny_base()
    learned = {}
    for learn in ("last", "all"):
        config = SftConfig.model_validate({"learn": learn, "max_tokens": 256})
        learned[learn] = [sum(row.learn) for row in Rows(base, examples, config).as_served]
    one = len("say 0") + 1  # and its end token
    assert learned == {"last": [one, 2 * one, 2 * one, one], "all": [one, 2 * one, 2 * one, 2 * one]}


def test_what_stands_behind_the_last_learned_answer_is_left_out_and_said(tmp_path: Path) -> None:
    dataset = read(_file(tmp_path, _row(1, 0), _row(1, 1), _row(None, 1, 0, 0)))
    assert [example.answer for example in dataset.examples] == ["say 0", "say 1", "say 1"]
    (note,) = dataset.findings
    assert (note.rule, note.severity) == ("weight-end", "note")
    assert note.message.endswith("weights of 0 behind it (lines 1, 3)")


def test_a_file_whose_weights_are_all_0_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of its 2 rows.*\n  line 1 gives every answer weight 0.*\n  line 2 gives"
    ):
        read(_file(tmp_path, _row(0, 0), _row(0)))


@pytest.mark.parametrize("weight", [2, -1, 0.5, True, "1", [1]])
def test_a_weight_that_is_neither_0_nor_1_is_named_by_line_and_rule(tmp_path: Path, weight: Any) -> None:
    dataset = read(_file(tmp_path, _row(1), _row(weight)))
    (finding,) = dataset.findings
    assert (finding.line, finding.rule, finding.severity) == (2, "weight", "error")
    assert re.search(r"at messages\[1\] \(assistant\); expected 0 or 1, on assistant messages only", finding.message)


def test_a_question_before_the_learned_answer_is_needed(tmp_path: Path) -> None:
    greeting = {"role": "assistant", "content": "Welcome", "weight": 1}
    dataset = read(_file(tmp_path, {"messages": [greeting, *_row(0)["messages"]]}, _row(1)))
    assert [finding.rule for finding in dataset.findings] == ["no-user"]


def test_weights_survive_mending_and_are_part_of_what_is_learned(tmp_path: Path) -> None:
    flawed = _row(0, 1)
    flawed["messages"][3]["content"] += "  "
    mended = mend(read(_file(tmp_path, flawed)))
    write_jsonl(tmp_path / "new.jsonl", mended.examples)
    (example,) = read(tmp_path / "new.jsonl").examples
    assert [message.weight for message in example.messages] == [None, 0, None, 1]
    (other,) = read(_file(tmp_path, _row(1, 1))).examples
    assert content_hash(example) != content_hash(other)
