"""Rows with tools: read as they are, each broken rule of the fine-tuning API named, carried through unchanged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weft.data.check import check
from weft.data.fingerprint import canonical, content_hash
from weft.data.mend import mend, write_jsonl
from weft.data.read import read, scan
from weft.data.read_preferences import read_preferences
from weft.data.split import split
from weft.errors import DataError, ModelError
from weft.records import Call, Conversation, Dataset, Message

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
WARM = {"role": "user", "content": "Is it warm?"}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "25 degrees"}
YES = {"role": "assistant", "content": "Yes."}


def call(arguments: Any = '{"city": "Rome"}', name: Any = "weather", id: Any = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asks(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def row(*messages: Any, tools: Any = (TOOL,), **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": list(tools) if isinstance(tools, tuple) else tools, **more}


def city(n: int, answer: str = "", **more: Any) -> dict[str, Any]:
    """A row of its own for each `n`: a call, or where there is an `answer` the result and this answer."""
    question = {"role": "user", "content": f"Is it warm in place {n * 7919} of {n}?"}
    made = asks(call(json.dumps({"city": f"Place {n}"})))
    return row(question, made, *((RESULT, {"role": "assistant", "content": answer}) if answer else ()), **more)


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    return path


def rules(dataset: Dataset, **more: Any) -> set[str]:
    return {finding.rule for finding in check(dataset, **more)}


def test_calls_and_their_results_are_read_with_the_tools_of_the_row(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("{}", id="call_2")], "weight": 0}
    given = row(WARM, asks(call()), RESULT, said, RESULT, YES, parallel_tool_calls=False)
    (example,) = read(written(tmp_path, given)).examples
    rome, again = Call("weather", '{"city": "Rome"}', "call_1"), Call("weather", "{}", "call_2")
    assert example.messages == (
        Message("user", "Is it warm?"),
        Message("assistant", "", calls=(rome,)),
        Message("tool", "25 degrees", answers=rome),
        Message("assistant", "Let me see.", weight=0, calls=(again,)),
        Message("tool", "25 degrees", answers=rome),
        Message("assistant", "Yes."),
    )
    assert (example.offered, example.parallel_tool_calls) == ([TOOL], False)
    assert example.learned("last") == {1, 5}
    assert hash(example) == hash(replace(example))


def test_an_id_that_comes_again_belongs_to_the_call_before(tmp_path: Path) -> None:
    oslo = call('{"city": "Oslo"}')
    (example,) = read(written(tmp_path, row(WARM, asks(call()), RESULT, asks(oslo), RESULT, YES))).examples
    assert [json.loads(m.answers.arguments)["city"] for m in example.messages if m.answers] == ["Rome", "Oslo"]


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "arguments that are no JSON": (
        row(WARM, asks(call("{city"))),
        "tool-call",
        r"'\{city' as .*arguments, which is not",
    ),
    "no arguments": (row(WARM, asks(call(""))), "tool-call", r'which is not valid JSON.*without any: "\{\}"'),
    "arguments as an object": (row(WARM, asks(call({"city": 1}))), "tool-call", "an object as .*expected a string"),
    "arguments as a list": (row(WARM, asks(call("[1]"))), "tool-call", "a list in the string .*expected an object"),
    "arguments twice": (row(WARM, asks(call('{"a": 1, "a": 2}'))), "tool-call", "has the key 'a' twice"),
    "arguments with half a character": (row(WARM, asks(call('{"a": "\\ud800"}'))), "tool-call", "surrogate pair"),
    "arguments too deep": (row(WARM, asks(call('{"a":' + "[" * 70 + "]" * 70 + "}"))), "tool-call", "71 deep"),
    "an unknown name": (
        row(WARM, asks(call(name="wether"))),
        "tool-call",
        r"'wether' at messages\[1\]\.tool_calls\[0\]; the row's tools are 'weather'",
    ),
    "a name that is none": (row(WARM, asks(call(name=["x"]))), "tool-call", "Correct the name, or add the tool"),
    "a call without tools": (
        row(WARM, asks(call()), tools=None),
        "tool-call",
        "calls 'weather' .*the row has no 'tools'",
    ),
    "a call without an id": (
        row(WARM, asks({"function": call()["function"]})),
        "tool-call",
        "nothing as .*id; expected",
    ),
    "a call with a number as id": (row(WARM, asks(call(id=1))), "tool-call", "a number as .*id"),
    "a call with an empty id": (row(WARM, asks(call(id=""))), "tool-call", "an empty text as .*id"),
    "an id twice": (row(WARM, asks(call(), call())), "tool-call", "two calls with the id 'call_1'"),
    "a call of another kind": (row(WARM, asks({"id": "x", "type": "custom"})), "tool-call", "no call of a function"),
    "a call that is a text": (
        row(WARM, asks("weather()")),
        "tool-call",
        r"no call of a function at messages\[1\]\.tool",
    ),
    "calls that are no list": (row(WARM, YES | {"tool_calls": call()}), "tool-call", "an object at .*a list of calls"),
    "a call by the user": (row(WARM | {"tool_calls": [call()]}, YES), "tool-call", "only the assistant calls tools"),
    "an answer to nothing": (
        row(WARM, RESULT, YES),
        "tool-message",
        r"'call_1' at messages\[1\]; no call is before it",
    ),
    "an answer before its call": (row(WARM, RESULT, asks(call())), "tool-message", "no call is before it"),
    "an answer to another call": (
        row(WARM, asks(call(id="x")), RESULT, YES),
        "tool-message",
        "the calls before it are 'x'",
    ),
    "an answer without an id": (
        row(WARM, asks(call()), {"role": "tool", "content": "x"}, YES),
        "tool-message",
        "no 'tool_call_id'",
    ),
    "an answer without content": (row(WARM, asks(call()), RESULT | {"content": None}, YES), "content", "null as"),
    "no answer at the end": (row(WARM, asks(call()), RESULT), "last-message", "from the tool"),
    "no words and no call": (row(WARM, YES | {"content": None}), "content", r"null as messages\[1\]\.content"),
    "no words and no calls": (row(WARM, YES | {"content": None, "tool_calls": []}), "content", "expected a text"),
    "tools that are a text": (
        row(WARM, asks(call()), tools="weather"),
        "tools",
        "a string under 'tools'; expected a list",
    ),
    "tools that are an object": (row(WARM, asks(call()), tools=TOOL), "tools", "an object under 'tools'"),
    "a tool twice": (row(WARM, asks(call()), tools=(TOOL, TOOL)), "tools", "two tools called 'weather'"),
    "a bare function": (row(WARM, asks(call()), tools=(TOOL["function"],)), "tools", r"no function at tools\[0\]"),
    "a tool that is a number": (row(WARM, asks(call()), tools=(3,)), "tools", "functions are the only tools"),
    "a tool with a blank in its name": (
        row(WARM, YES, tools=({"function": {"name": "a b"}},)),
        "tools",
        "'a b' as .*letters, digits",
    ),
    "a tool without a name": (row(WARM, YES, tools=({"function": {}},)), "tools", "nothing as .*name"),
    "a schema that is a text": (
        row(WARM, YES, tools=({"function": {"name": "a", "parameters": "x"}},)),
        "tools",
        "a string as .*JSON schema",
    ),
    "a description that is a number": (
        row(WARM, YES, tools=({"function": {"name": "a", "description": 3}},)),
        "tools",
        "a number as .*a text",
    ),
    "several calls, in words": (
        row(WARM, asks(call()), parallel_tool_calls="no"),
        "tools",
        "'parallel_tool_calls'; expected true or false",
    ),
    "functions": (row(WARM, YES, functions=[{"name": "x"}]), "tools", "'functions', the older form.*Use `tools`"),
    "a function call": (
        row(WARM, YES | {"function_call": {"name": "x"}}),
        "tools",
        r"'function_call' at messages\[1\]",
    ),
    "the role function": (
        row(WARM, {"role": "function", "content": "x"}, YES),
        "tools",
        r"from 'function' at messages\[1\]",
    ),
    "tools in ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}], "tools": "[]"},
        "tools",
        "chat `messages`",
    ),
    "calls in ShareGPT": (
        {"conversations": [{"from": "function_call", "value": "{}"}]},
        "tools",
        "from 'function_call'",
    ),
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_what_breaks_a_rule_is_named_with_its_place_and_the_cure(tmp_path: Path, flaw: str) -> None:
    broken, rule, said = BROKEN[flaw]
    dataset = read(written(tmp_path, city(0), broken, city(1)))
    (finding,) = dataset.findings
    assert (finding.line, finding.rule, finding.severity) == (2, rule, "error")
    assert re.search(said, f"{finding.message} {finding.cure}")
    assert finding.cure
    assert [example.line for example in dataset.examples] == [1, 3]


def test_no_tools_and_no_calls_are_what_they_were(tmp_path: Path) -> None:
    plain = {"messages": [WARM, YES]}
    empty = {"messages": [WARM | {"tool_calls": None}, YES | {"tool_calls": []}], "tools": [], "functions": None}
    one, other = read(written(tmp_path, plain, empty | {"parallel_tool_calls": True})).examples
    assert one.identity == other.identity
    assert canonical(one) == canonical(other) == b'[["user","Is it warm?"],["assistant","Yes."]]'
    assert one.to_json() == plain


def test_a_mended_file_has_the_rows_as_they_were(tmp_path: Path) -> None:
    rows = [city(n, "Warm." if n % 2 else "", parallel_tool_calls=bool(n % 3)) for n in range(12)]
    rows[4]["messages"][1]["content"] = "Let me see: é"
    rows[5]["messages"][1]["weight"] = 0
    del rows[6]["parallel_tool_calls"]
    dataset = read(written(tmp_path, *rows, rows[3], city(20) | {"tools": "x"}))
    mended = mend(dataset)
    assert mended.changes == ("1 row left out that could not be read", "1 row left out that repeated another")
    write_jsonl(tmp_path / "out.jsonl", mended.examples)
    kept = (tmp_path / "out.jsonl").read_text().splitlines()
    assert sorted(kept) == sorted(json.dumps(one, ensure_ascii=False) for one in rows)
    again = read(tmp_path / "out.jsonl")
    assert [example.identity for example in again.examples] == [example.identity for example in mended.examples]


def test_rows_that_differ_in_their_tools_or_calls_are_not_the_same(tmp_path: Path) -> None:
    other = json.loads(json.dumps(TOOL).replace("The weather", "A forecast"))
    rows = [row(WARM, asks(call())), row(WARM, asks(call()), tools=(other,)), row(WARM, asks(call("{}")))]
    dataset = read(written(tmp_path, *rows))
    assert "duplicate" not in rules(dataset)
    assert len({content_hash(example) for example in dataset.examples}) == len(mend(dataset).examples) == 3
    assert "duplicate" in rules(read(written(tmp_path, *rows, rows[0])))
    # The same prompt with another call is answered in two ways; with other tools it is another prompt.
    assert "conflict" not in rules(read(written(tmp_path, *rows[:2])))
    assert "conflict" in rules(read(written(tmp_path, rows[0], rows[2])))


def test_a_split_keeps_calls_and_counts_repetitions_once(tmp_path: Path) -> None:
    rows = [city(n, "Warm." if n % 2 else "") for n in range(40)]
    examples = read(written(tmp_path, *rows, *rows)).examples
    parts = split(examples)
    assert {part.identity for part in (*parts.train, *parts.validation, *parts.test)} == {e.identity for e in examples}
    assert len(parts.test) == len({example.identity for example in parts.test})


def test_an_answer_that_calls_is_neither_empty_nor_of_another_form(tmp_path: Path) -> None:
    rows = [city(n, f"It is {n} degrees in the place that you ask for." if n % 2 else "") for n in range(60)]
    assert rules(read(written(tmp_path, *rows))) == set()
    (example,) = read(written(tmp_path, row(WARM, asks(call()) | {"content": "Wait."}))).examples
    assert example.answer == 'Wait.\nweather({"city": "Rome"})'


def test_one_call_for_every_question_is_nothing_to_learn(tmp_path: Path) -> None:
    rows = [row({"role": "user", "content": f"Question {n * 7919}?"}, asks(call())) for n in range(12)]
    (finding,) = [f for f in check(read(written(tmp_path, *rows))) if f.rule == "identical-answers"]
    assert "weather(" in finding.message


def test_rows_that_a_base_cannot_be_shown_are_named_with_its_reason(tmp_path: Path) -> None:
    def tokens(example: Conversation) -> int:
        if example.tools:
            raise ModelError("the chat template of this base knows no tools. Use a base that was trained with tools.")
        return 10

    plain = [{"messages": [WARM | {"content": f"Why {n}?"}, YES | {"content": f"So {n}."}]} for n in range(20)]
    dataset = read(written(tmp_path, *plain, *(city(n) for n in range(5))))
    findings = check(dataset, count_tokens=tokens, context_tokens=9)
    (finding,) = [finding for finding in findings if finding.rule == "template"]
    assert (finding.line, finding.severity) == (21, "error")
    assert finding.message.startswith(
        "5 examples have no place in the base's chat template (lines 21, 22, 23 and 2 more)"
    )
    assert "knows no tools" in finding.message and "leave these rows out" in finding.cure
    (long,) = [finding for finding in findings if finding.rule == "too-long"]
    assert long.message.startswith("20 examples")


def test_preferences_with_tools_are_refused_by_name(tmp_path: Path) -> None:
    pair = {
        "input": {"messages": [WARM], "tools": [TOOL]},
        "preferred_output": [asks(call())],
        "non_preferred_output": [YES],
    }
    with pytest.raises(DataError, match="has 'tools' in input; calls of tools are learned from chat `messages`"):
        read_preferences(written(tmp_path, pair))
    assert not scan(written(tmp_path, pair)).examples
    with pytest.raises(DataError, match=r"is no preference pair .*--method sft"):  # the method is wrong, not the row
        read_preferences(written(tmp_path, city(0)))
