"""Every row becomes a pair or a finding with its line; what is no set of pairs is refused in a sentence."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from weft.data.read import read
from weft.data.read_preferences import read_preferences
from weft.errors import DataError, UsageError
from weft.records import Message

GOOD = '{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}'
ASKED = {"role": "user", "content": "Hi"}


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _write(folder: Path, *rows: Any) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, "prompt / chosen / rejected"),
        ({"prompt": [ASKED], "chosen": [_said("Hello!")], "rejected": [_said("What?")]}, "prompt / chosen / rejected"),
        ({"prompt": "Hi", "chosen": [ASKED, _said("Hello!")], "rejected": [ASKED, _said("What?")]},
         "prompt / chosen / rejected"),
        ({"chosen": [ASKED, _said("Hello!")], "rejected": [ASKED, _said("What?")]}, "chosen / rejected conversations"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
         "chosen / rejected transcripts"),
        ({"input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
          "preferred_output": [_said("Hello!")], "non_preferred_output": [_said("What?")]}, "input / preferred_output"),
        ({"input": {"messages": [ASKED]}, "preferred_completion": [_said("Hello!")],
          "non_preferred_completion": [_said("What?")]}, "input / preferred_completion"),
        ({"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"},
          "rejected": {"from": "gpt", "value": "What?"}}, "conversations / chosen / rejected"),
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_pair_and_is_said(tmp_path: Path, row: Any, layout: str) -> None:
    found = read_preferences(_write(tmp_path, row))
    assert (found.layout, found.findings, found.rows) == (layout, (), 1)
    (pair,) = found.pairs
    assert (pair.prompt, pair.chosen, pair.rejected, pair.line) == ((Message("user", "Hi"),), "Hello!", "What?", 1)
    assert pair.answered("x") == (Message("user", "Hi"), Message("assistant", "x"))


def test_earlier_turns_and_the_system_message_belong_to_the_prompt(tmp_path: Path) -> None:
    before = [{"role": "system", "content": "Be kind."}, ASKED, _said("Hello!"), {"role": "user", "content": "Bye"}]
    row = {"chosen": [*before, _said("Farewell")], "rejected": [*before, _said("Go")]}
    found = read_preferences(_write(tmp_path, row, GOOD), system="Be brief.")
    roles = [[message.role for message in pair.prompt] for pair in found.pairs]
    assert roles == [["system", "user", "assistant", "user"], ["system", "user"]]
    assert [pair.prompt[0].content for pair in found.pairs] == ["Be kind.", "Be brief."]


@pytest.mark.parametrize(
    ("row", "rule", "said"),
    [
        ('{"prompt": "Hi"', "json", "cut off|near"),
        ("[1, 2]", "not-object", "list"),
        ({"prompt": "Hi", "response": "Hello"}, "no-pair", "no preference pair.*'response'.*--method sft"),
        ({"prompt": "Hi", "chosen": "a"}, "layout", "no 'rejected'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": None}, "missing-text", "null under 'rejected'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": 3}, "messages", "number under 'rejected'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": " \n"}, "empty-reply", "empty reply under 'rejected'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "identical-replies", "same text as 'chosen' and 'rejected'"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty-prompt", "asks nothing"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "messages", "null under 'prompt'"),
        ({"prompt": [_said("Hi")], "chosen": "a", "rejected": "b"}, "prompt", "ends with a message from the assistant"),
        ({"prompt": [{"role": "bot", "content": "x"}], "chosen": "a", "rejected": "b"}, "role", r"prompt\[0\]\.role"),
        ({"chosen": "a", "rejected": "b"}, "layout", "no 'prompt'.*'chosen' is not a dialogue"),
        ({"chosen": [_said("a")], "rejected": [_said("b")]}, "prompt", "is empty"),
        ({"chosen": [ASKED, _said("a")], "rejected": [_said("x"), _said("b")]}, "different-prompts", "from message 1"),
        ({"chosen": [ASKED, _said("a"), ASKED, _said("b")], "rejected": [ASKED, _said("b")]}, "different-prompts",
         "4 and 2 messages.*from message 2"),
        ({"prompt": "Hi", "chosen": [_said("a"), _said("b")], "rejected": "c"}, "reply", r"\[assistant, assistant\]"),
        ({"prompt": "Hi", "chosen": [ASKED], "rejected": "c"}, "reply", r"\[user\] under 'chosen'"),
        ({"input": {"messages": [ASKED]}, "preferred_output": [_said("a")]}, "layout", "no 'non_preferred_output'"),
        ({"input": {"messages": [ASKED]}, "preferred_output": [], "non_preferred_output": [_said("a")]}, "messages",
         "empty list under 'preferred_output'"),
        ({"input": "Hi", "preferred_output": [_said("a")], "non_preferred_output": [_said("b")]}, "layout",
         "string under 'input'"),
        ({"preferred_output": [_said("a")], "non_preferred_output": [_said("b")]}, "layout", "no 'input'"),
        ({"input": {"messages": [ASKED], "tools": [{}]}, "preferred_output": [_said("a")],
          "non_preferred_output": [_said("b")]}, "tools", "'tools' in input"),
        ({"input": {"messages": [ASKED]}, "preferred_output": [_said("a")], "non_preferred_output": [_said("a")]},
         "identical-replies", "'preferred_output' and 'non_preferred_output'"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "tools": [{}]}, "tools", "'tools'"),
    ],
)  # fmt: skip
def test_each_bad_line_is_named_and_reading_goes_on(tmp_path: Path, row: Any, rule: str, said: str) -> None:
    found = read_preferences(_write(tmp_path, GOOD, row, GOOD))
    (finding,) = found.findings
    assert (finding.line, finding.rule, finding.severity) == (2, rule, "error")
    assert re.search(said, f"{finding.message} {finding.cure}")
    assert finding.cost and finding.cure
    assert ([pair.line for pair in found.pairs], found.rows) == ([1, 3], 3)


def test_chat_data_are_no_pairs_and_pairs_are_no_chat_data(tmp_path: Path) -> None:
    chat = _write(tmp_path, *[{"prompt": "Hi", "response": "Hello"}] * 3)
    with pytest.raises(DataError, match=r"none of its 3 rows .* Line 1 is no preference pair .*--method sft"):
        read_preferences(chat)
    pairs = _write(tmp_path, GOOD, GOOD)
    with pytest.raises(DataError, match=r"its 2 rows are preference pairs .* weft train \S+ --method dpo"):
        read(pairs)


def test_a_file_without_one_pair_says_what_is_wrong_with_its_first_lines(tmp_path: Path) -> None:
    same = {"prompt": "Hi", "chosen": "a", "rejected": "a"}
    with pytest.raises(DataError, match=r"none of its 7 rows can be read(.|\n)*line 1 has the same(.|\n)*and 2 more"):
        read_preferences(_write(tmp_path, *[same] * 7))
    with pytest.raises(DataError, match="the file is empty"):
        read_preferences(_write(tmp_path, ""))
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nHi,a,b\n")
    with pytest.raises(DataError, match="table or plain text"):
        read_preferences(tmp_path / "a.csv")
    with pytest.raises(UsageError, match=r"no such file\. Did you mean .*pairs\.jsonl"):
        read_preferences(tmp_path / "pair.jsonl")


def test_public_sets_of_preferences_are_read(shared: Path, tmp_path: Path) -> None:
    demo = read_preferences(shared / "data/format-samples/dpo_en_demo.json")
    assert (len(demo.pairs), demo.rows, demo.findings) == (300, 300, ())
    assert demo.layout == "JSON array of conversations / chosen / rejected"
    path = tmp_path / "hh.jsonl"
    path.write_bytes(gzip.decompress((shared / "data/hh-rlhf-harmless/pairs.jsonl.gz").read_bytes()))
    harmless = read_preferences(path)
    assert (len(harmless.pairs), harmless.rows, len(harmless.findings)) == (1495, 1500, 5)
    assert {finding.rule for finding in harmless.findings} == {"empty-reply", "different-prompts"}
    assert all(pair.prompt[-1].role == "user" for pair in harmless.pairs)
