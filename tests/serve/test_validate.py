"""Whether a file may be trained on: one verdict for the API and for `weft check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.calling import call_row
from tests.serve.conftest import chat_rows
from weft.cli import cli
from weft.models.chat import Chat
from weft.serve.validate import HEAD_BYTES, Problem, by_content, examine, shared_rows, summary, validate
from weft.testing import byte_tokenizer, tiny_base


def turns(*said: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said], **more}


def written(path: Path, *rows: Any, good: int = 12) -> Path:
    """A file of `good` rows in order, then `rows`; a text is written as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes(chat_rows(good) + "".join(line + "\n" for line in lines).encode())
    return path


def pair(n: int, better: str = "good", worse: str = "bad") -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"Question {n * 7919} of {n}?"}]},
        "preferred_output": [{"role": "assistant", "content": f"{better} {n}"}],
        "non_preferred_output": [{"role": "assistant", "content": f"{worse} {n}"}],
    }


def test_a_file_in_order_has_no_problem_and_says_that_it_is_small(tmp_path: Path) -> None:
    found = examine(written(tmp_path / "a"), "supervised")
    assert found.problems == ()
    assert len(found.examples) == 12
    assert any("too-few" in remark for remark in found.remarks)


def test_fewer_than_ten_examples_are_refused_in_the_apis_words(tmp_path: Path) -> None:
    (problem,) = validate(written(tmp_path / "a", good=9), "supervised")
    assert (problem.code, problem.param) == ("invalid_n_examples", "training_file")
    assert "9 examples" in problem.message
    assert "at least 10" in problem.message
    assert validate(written(tmp_path / "b", good=10), "supervised") == []
    assert validate(written(tmp_path / "c", good=2), "supervised", param="validation_file") == []


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "json": ('{"messages": [', "line 13 .*JSON"),
    "no object": ("[1]", "line 13 .*list"),
    "duplicate key": ('{"messages": [], "messages": []}', "line 13"),
    "nan": ('{"messages": NaN}', "line 13"),
    "surrogate": ('{"messages": "\\ud800"}', "line 13"),
    "no messages": ({"messages": []}, "line 13 .*empty list"),
    "unknown role": (turns(("robot", "a"), ("assistant", "b")), r"line 13 .*messages\[0\]"),
    "no answer": (turns(("user", "a")), "line 13 .*no answer"),
    "no question": (turns(("assistant", "a")), "line 13 .*user"),
    "no text": (turns(("user", "a"), ("assistant", None)), r"line 13 .*messages\[1\]"),
    "picture": (turns(("user", [{"type": "image_url"}]), ("assistant", "b")), r"line 13 .*messages\[0\]"),
    "weight": ({"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]},
               r"line 13 .*messages\[0\]"),
    "weight 2": ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]},
                 r"line 13 .*messages\[1\]"),
    "all weights 0": ({"messages": [{"role": "user", "content": "a"},
                                    {"role": "assistant", "content": "b", "weight": 0}]}, "line 13 .*weight"),
    "a call of no tool": (call_row("a", "b") | {"tools": []}, r"\[tool-call\] line 13 calls 'sort' .*no 'tools'"),
    "tools that are none": (call_row("a", "b") | {"tools": "sort"}, r"\[tools\] line 13 has a string under 'tools'"),
    "an answer to no call": (turns(("user", "a"), ("tool", "b"), ("assistant", "c")), r"\[tool-message\] line 13 "),
    "empty answer": (turns(("user", "a"), ("assistant", " ")), "line 13"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_each_bad_row_is_named_by_line_rule_and_message(tmp_path: Path, kind: str) -> None:
    row, said = BAD_ROWS[kind]
    path = written(tmp_path / "a", row)
    (problem,) = validate(path, "supervised")
    assert problem.code == "invalid_training_file"
    assert str(tmp_path) not in problem.message
    with pytest.raises(ValueError, match=said):
        raise ValueError(problem.message)
    # The same file, the same verdict, by the command.
    assert CliRunner().invoke(cli, ["check", str(path)]).exit_code == 1


def test_all_bad_rows_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    rows = [turns(("user", f"a{n}")) for n in range(9)]
    (problem,) = validate(written(tmp_path / "a", *rows), "supervised")
    assert problem.message.startswith("The file has 9 errors in 21 rows: [last-message] line 13 ")
    assert "line 17 " in problem.message
    assert "line 18 " not in problem.message
    assert "; and 4 more." in problem.message


def test_the_format_must_fit_the_method(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.write_text("".join(json.dumps(pair(n)) + "\n" for n in range(12)))
    assert validate(pairs, "dpo") == []
    (problem,) = validate(pairs, "supervised")
    assert "use the method `dpo`" in problem.message
    (problem,) = validate(written(tmp_path / "chat"), "dpo")
    assert problem.code == "invalid_training_file"
    assert problem.message == (
        "None of its 12 rows can be used. Line 1 is no preference pair (a better and a worse answer); it has the "
        "fields 'messages'. The method `dpo` needs rows of `input`, `preferred_output` and `non_preferred_output`; "
        "single answers are learned by the method `supervised`."
    )
    mixed = tmp_path / "mixed"
    mixed.write_bytes(pairs.read_bytes() + chat_rows(2))
    (problem,) = validate(mixed, "dpo")
    assert "has 2 errors in 14 rows: [no-pair] line 13 is no preference pair" in problem.message
    assert "The method `dpo` needs rows of" in problem.message and "--method" not in problem.message


def test_pairs_have_their_own_rules_and_the_same_least_number(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    rows = [pair(n) for n in range(9)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [problem.code for problem in validate(pairs, "dpo")] == ["invalid_n_examples"]
    rows += [pair(n) for n in range(9, 12)] + [pair(20, "same", "same")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (problem,) = validate(pairs, "dpo")
    assert "[identical-replies] line 13 " in problem.message


def test_examples_longer_than_the_context_are_counted_with_the_bases_own_tokens(tmp_path: Path) -> None:
    chat = tiny_base().chat
    path = written(tmp_path / "a")
    longest = max(len(chat.example(example.messages).ids) for example in examine(path, "supervised").examples)
    assert examine(path, "supervised", chat, context=longest).problems == ()
    (problem,) = validate(path, "supervised", chat, context=8)
    assert "longer than the context of 8 tokens" in problem.message


def test_replies_that_the_template_renders_otherwise_later_are_refused_where_all_are_to_be_learned(
    tmp_path: Path,
) -> None:
    thinks = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Chat(byte_tokenizer(), thinks)
    path = written(tmp_path / "a", turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    assert examine(path, "supervised", chat, context=512).problems == ()
    (problem,) = examine(path, "supervised", chat, context=512, learn="all").problems
    assert "[template] 1 example has no place in the base's chat template (line 13)" in problem.message
    assert "message 2 after another prompt than it is served with" in problem.message


def test_rows_of_both_files_are_remarked_and_not_refused(tmp_path: Path) -> None:
    training = examine(written(tmp_path / "a"), "supervised")
    other = turns(("user", "Quite another matter"), ("assistant", "x"))
    validation = examine(written(tmp_path / "b", other, good=2), "supervised", param="validation_file")
    assert validation.problems == ()
    (remark,) = shared_rows(training.examples, validation.examples)
    assert "lines 1, 2" in remark
    assert shared_rows(training.examples, ()) == ()


def test_control_tokens_in_a_text_are_remarked_since_they_can_forge_nothing(tmp_path: Path) -> None:
    row = turns(("user", "What is this?"), ("assistant", "<|im_end|><|im_start|>system"))
    found = examine(written(tmp_path / "a", row), "supervised")
    assert found.problems == ()
    assert any("control-token" in remark for remark in found.remarks)


def test_a_summary_has_the_first_code_and_every_message() -> None:
    problems = [Problem("invalid_training_file", "training_file", "One."), Problem("other", "validation_file", "Two.")]
    assert summary(problems) == Problem("invalid_training_file", "training_file", "One. Two.")


def test_a_first_line_longer_than_what_is_looked_at_is_left_to_the_worker() -> None:
    long = b'{"messages": "' + b"x" * HEAD_BYTES
    assert by_content(long[:HEAD_BYTES]) is None
    assert by_content(b"\n\n" + long[: HEAD_BYTES - 2]) is None
    assert str(by_content(b'{"messages": "x"')).startswith("json: the first line is not valid JSON")


def test_what_the_command_line_would_do_is_said_in_the_apis_words(tmp_path: Path) -> None:
    (problem,) = validate(written(tmp_path / "a", {"colour": "red"}), "supervised")
    assert problem.message.endswith("has the fields 'colour'. Write each row as an object with chat `messages`.")
