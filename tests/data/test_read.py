"""Every row becomes an example or a finding with its line; every refusal names what it found and the way out."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from weft.data import read as read_module
from weft.data.formats.lines import MAX_LINE_BYTES
from weft.data.read import read, require_readable, scan
from weft.errors import DataError, UsageError, WeftError
from weft.records import Dataset, Message

GOOD = '{"prompt": "Hi", "response": "Hello"}'


def write(folder: Path, content: str | bytes, name: str = "data.bin") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rules(dataset: Dataset) -> list[tuple[int, str]]:
    return [(finding.line, finding.rule) for finding in dataset.findings]


@pytest.mark.parametrize(
    ("row", "layout", "question", "answer"),
    [
        ({"prompt": "Hi", "completion": "Hello"}, "prompt / completion", "Hi", "Hello"),
        ({"prompt": "Hi", "response": "Hello"}, "prompt / response", "Hi", "Hello"),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, "instruction / output", "Add\n\n1 2", "3"),
        ({"instruction": "Add", "input": "", "output": 3}, "instruction / output", "Add", "3"),
        ({"question": "Why?", "answer": "So."}, "question / answer", "Why?", "So."),
        ({"text": "bad kettle", "label": "refund"}, "text / label", "bad kettle", "refund"),
        ({"Text": "bad kettle", "Category": "refund"}, "Text / Category", "bad kettle", "refund"),
        ({"input": "x", "output": {"a": 1, "b": "é"}}, "input / output", "x", '{"a":1,"b":"é"}'),
    ],
)
def test_layouts_of_two_texts_are_recognised_and_said(
    tmp_path: Path, row: dict[str, object], layout: str, question: str, answer: str
) -> None:
    dataset = read(write(tmp_path, json.dumps(row)))
    assert (dataset.layout, dataset.examples[0].question, dataset.examples[0].answer) == (layout, question, answer)


def test_chat_messages_keep_their_roles_and_join_text_parts(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
            {"role": "assistant", "content": "Hello", "weight": 0},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "Farewell", "weight": 1},
        ]
    }
    (example,) = read(write(tmp_path, json.dumps(row))).examples
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert example.messages[1].content == "Hi there"


def test_sharegpt_conversations_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    dataset = read(write(tmp_path, json.dumps({"system": "Be kind.", "conversations": turns})))
    assert dataset.layout == "ShareGPT conversations"
    assert [message.role for message in dataset.examples[0].messages] == ["system", "user", "assistant"]


def test_a_system_message_is_added_only_where_there_is_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant")]}
    dataset = read(write(tmp_path, json.dumps(own) + "\n" + GOOD), system="Be brief.")
    assert [example.messages[0] for example in dataset.examples] == [
        Message("system", "system"),
        Message("system", "Be brief."),
    ]
    assert dataset.findings[-1].rule == "mixed-layouts"


@pytest.mark.parametrize(
    ("line", "rule", "said"),
    [
        ('{"prompt": "Hi"', "json", "cut off|near"),
        ('{"prompt": "Hi",}', "json", "property name"),
        ("{'prompt': 'Hi', 'response': 'x'}", "json", "double quotes"),
        (GOOD + GOOD, "json", "Extra data"),
        (GOOD + "\r" + GOOD, "json", "Extra data"),
        ('{"prompt": "a\tb", "response": "x"}', "json", "control character"),
        ('{"prompt": NaN, "response": "x"}', "json-constant", "NaN"),
        ('{"prompt": -Infinity, "response": "x"}', "json-constant", "-Infinity"),
        ('{"prompt": 1e999, "response": "x"}', "json-number", "1e999"),
        ('{"prompt": ' + "1" * 101 + ', "response": "x"}', "json-number", "101 characters"),
        ('{"prompt": "a", "response": "x", "prompt": "b"}', "json-duplicate-key", "'prompt' twice"),
        ('{"prompt": ' + "[" * 65 + "]" * 65 + "}", "json-depth", "66 deep"),
        ('{"prompt": ' + "[" * 100_000, "json-depth", "100001 deep"),
        ('{"prompt": "\\ud800", "response": "x"}', "json-surrogate", "ud800"),
        ('{"prompt": "a\\u0000", "response": "x"}', "nul", "NUL"),
        ('{"prompt": "a\0", "response": "x"}', "nul", "NUL byte"),
        ("[1, 2]", "not-object", "list"),
        ("17", "not-object", "single value"),
        ('{"prompt": "Hi"}', "layout", "'prompt'"),
        ('{"prompt": null, "response": "x"}', "missing-text", "null under 'prompt'"),
        ('{"prompt": "a", "response": "b", "history": [["x", "y"]]}', "history", "earlier turns"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "preference", "preference pair"),
        ('{"messages": []}', "messages", "empty list"),
        ('{"messages": "Hi"}', "messages", "string under 'messages'"),
        ('{"messages": ["Hi"]}', "messages", r"messages\[0\]"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "last-message", "from the user"),
        ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "no-user", "no message from the user"),
        ('{"messages": [{"role": "bot", "content": "Hi"}]}', "role", r"'bot' as messages\[0\]\.role"),
        ('{"messages": [{"content": "Hi"}]}', "role", "nothing as"),
        ('{"messages": [{"role": ["x"], "content": "Hi"}]}', "role", "expected system"),
        ('{"messages": [{"role": "user", "content": null}]}', "content", "null as"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "images", "picture"),
        ('{"messages": [{"role": "user", "content": [{"type": "file"}]}]}', "content", "'file'"),
        ('{"messages": [{"role": "user", "content": "x", "weight": 1}]}', "weight", "on assistant messages only"),
        (
            '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}]}',
            "weight",
            "weight 0",
        ),
    ],
)
def test_each_bad_line_is_named_and_reading_goes_on(tmp_path: Path, line: str, rule: str, said: str) -> None:
    import re

    dataset = read(write(tmp_path, f"{GOOD}\n{line}\n{GOOD}\n"))
    (finding,) = dataset.findings
    assert (finding.line, finding.rule, finding.severity) == (2, rule, "error")
    assert re.search(said, f"{finding.message} {finding.cure}")
    assert finding.cost and finding.cure
    assert [example.line for example in dataset.examples] == [1, 3]
    assert dataset.rows == 3


def test_blank_lines_are_no_rows_and_line_numbers_stay_true(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, f"\n{GOOD}\n  \n{GOOD}\n\n"))
    assert [example.line for example in dataset.examples] == [2, 4]
    assert (dataset.rows, dataset.findings) == (2, ())


def test_lines_end_at_newline_only(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a\u2028b\x85c\u2029d", "response": "x"}, ensure_ascii=False)
    dataset = read(write(tmp_path, row + "\n" + row))
    assert [example.question for example in dataset.examples] == ["a\u2028b\x85c\u2029d"] * 2


def test_a_byte_order_mark_and_carriage_returns_are_noted_once(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, b"\xef\xbb\xbf" + (GOOD + "\r\n").encode() * 3))
    assert [finding.rule for finding in dataset.findings] == ["bom", "carriage-return"]
    assert "3 lines" in dataset.findings[1].message
    assert len(dataset.examples) == 3


def test_a_line_in_another_encoding_is_named_with_its_byte(tmp_path: Path) -> None:
    content = (GOOD + "\n").encode() + '{"prompt": "café", "response": "x"}\n'.encode("latin-1") + GOOD.encode()
    dataset = read(write(tmp_path, content))
    (finding,) = dataset.findings
    assert (finding.line, finding.rule) == (2, "encoding")
    assert f"0xE9 at byte {content.index(0xE9)} " in finding.message


def test_a_hundred_megabyte_line_costs_one_finding_and_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write((GOOD + "\n").encode())
        file.write(b'{"prompt": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'", "response": "x"}\n' + GOOD.encode())
    tracemalloc.start()
    dataset = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rules(dataset) == [(2, "line-length")]
    assert "100,000,032 bytes" in dataset.findings[0].message
    assert [example.line for example in dataset.examples] == [1, 3]
    assert peak < 40 * 1024 * 1024


def test_a_line_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    start, end = '{"prompt": "', '", "response": "x"}'
    row = start + "a" * (MAX_LINE_BYTES - len(start) - len(end)) + end
    dataset = read(write(tmp_path, f"{row}\n{row.replace('x', 'xy')}\n{row}"))
    assert [example.line for example in dataset.examples] == [1, 3]
    assert rules(dataset) == [(2, "line-length")]


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    for content in (GOOD + "\n" + GOOD, f"[{GOOD}]", "text,label\na,b\n"):
        assert read(write(tmp_path, content)).sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_ten_thousand_malformed_lines_add_up(tmp_path: Path) -> None:
    random.seed(1)
    bad = [b"{", b'{"prompt": NaN}', b"[]", b"\xff\xfe{", b'{"a": 1, "a": 2}', b'{"messages": 3}', b"nonsense", b"{}\0"]
    lines = [random.choice(bad) if random.random() < 0.9 else GOOD.encode() for _ in range(10_000)]
    lines[0] = GOOD.encode()
    dataset = scan(write(tmp_path, b"\n".join(lines)))
    wrong = [number for number, line in enumerate(lines, 1) if line != GOOD.encode()]
    assert [finding.line for finding in dataset.findings] == wrong
    assert len(dataset.examples) + len(wrong) == dataset.rows == 10_000


# Arrays


def test_an_array_is_read_with_the_line_of_each_element(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, f"[\n  {GOOD},\n\n  {GOOD}, {GOOD}\n]\n"))
    assert dataset.layout == "JSON array of prompt / response"
    assert [example.line for example in dataset.examples] == [2, 4, 4]


def test_one_bad_element_of_an_array_does_not_hide_the_others(tmp_path: Path) -> None:
    content = f'[{GOOD},\n{{"prompt": "a, [b", "response": }},\n{{"prompt": "x": 1}},\n3,\n{GOOD}]'
    dataset = read(write(tmp_path, content))
    assert rules(dataset) == [(2, "json"), (3, "json"), (4, "not-object")]
    assert [example.line for example in dataset.examples] == [1, 5]


def test_a_truncated_array_keeps_what_is_whole(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, f'[{GOOD},\n{GOOD},\n{{"prompt": "a'))
    assert len(dataset.examples) == 2
    assert rules(dataset) == [(3, "json")]
    assert "cut off" in dataset.findings[0].cure


def test_text_after_an_array_is_named(tmp_path: Path) -> None:
    assert rules(read(write(tmp_path, f"[{GOOD}]\n[{GOOD}]"))) == [(2, "json")]


def test_objects_over_several_lines_are_read(tmp_path: Path) -> None:
    row = json.dumps(json.loads(GOOD), indent=2)
    dataset = read(write(tmp_path, f"{row}\n{row}\n"))
    assert [example.line for example in dataset.examples] == [1, 5]


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_and_lines_are_where_rows_start(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["id", "text", "label"],
        ["1", '"two\n\nlines; here, ""so"" | and\ton"', "a"],
        ["", "", ""],
        ["2", "one", "b"],
    ]
    dataset = read(write(tmp_path, "\n".join(delimiter.join(row) for row in rows)))
    assert [(example.line, example.answer) for example in dataset.examples] == [(2, "a"), (6, "b")]
    assert dataset.examples[0].question == 'two\n\nlines; here, "so" | and\ton'
    assert dataset.rows == 2


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path, "id,body,queue\n1,kettle broke,refund\n")
    dataset = read(path, input="body", output="queue")
    assert dataset.layout == "CSV body -> queue"
    assert (dataset.examples[0].question, dataset.examples[0].answer) == ("kettle broke", "refund")


def test_fields_of_jsonl_are_named_by_the_user(tmp_path: Path) -> None:
    rows = '{"q": "a", "n": 4}\n{"q": "b"}\n{"q": "c", "n": true}'
    dataset = read(write(tmp_path, rows), input="q", output="n")
    assert [example.answer for example in dataset.examples] == ["4", "true"]
    assert rules(dataset) == [(2, "column")]


def test_an_unknown_column_is_refused_with_those_there_and_the_nearest(tmp_path: Path) -> None:
    table = write(tmp_path, "id,body,queue\n1,a,b\n")
    with pytest.raises(
        UsageError, match=r"--output 'quue' is no column \(did you mean 'queue'\?\).*'id', 'body', 'queue'"
    ):
        read(table, input="body", output="quue")
    with pytest.raises(UsageError, match=r"which columns\? It has 'id', 'body', 'queue'"):
        read(table)
    with pytest.raises(UsageError, match="go together"):
        read(table, input="body")
    with pytest.raises(UsageError, match=r"--input 'promt' is no column \(did you mean 'prompt'\?\)"):
        read(write(tmp_path, GOOD), input="promt", output="response")
    with pytest.raises(UsageError, match=r"no row fits a known layout; the first one has 'a', 'b'"):
        read(write(tmp_path, '{"a": 1, "b": 2}'))
    with pytest.raises(UsageError, match="'text' is there 2 times"):
        read(write(tmp_path, "text,text,label\na,b,c\n"))


def test_rows_of_another_width_are_named(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, "text,label\na,b\nc,d,e\nf\ng,h\n"))
    assert rules(dataset) == [(3, "columns"), (4, "columns")]
    assert "3 cells; the header has 2" in dataset.findings[0].message
    assert [example.answer for example in dataset.examples] == ["b", "h"]


def test_an_unclosed_quote_costs_one_row_and_not_the_rest(tmp_path: Path) -> None:
    rows = "".join(f"text {number},label\n" for number in range(5000))
    dataset = read(write(tmp_path, f'text,label\na,b\n"c,d\n{rows}'))
    assert rules(dataset) == [(3, "csv-quote")]
    assert "not closed" in dataset.findings[0].message
    assert len(dataset.examples) == 5001
    assert dataset.examples[1].line == 4


# Files


def test_files_that_cannot_be_used_are_named_for_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file\. Did you mean .*data\.jsonl"):
        write(tmp_path, GOOD, "data.jsonl")
        read(tmp_path / "dota.jsonl")
    with pytest.raises(UsageError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        read("/dev/null")
    with pytest.raises(UsageError, match="cannot be opened"):
        read(str(tmp_path / "a\0b"))
    with pytest.raises(UsageError, match="is not there either"):
        read(tmp_path / "nowhere" / "data.jsonl")
    for content in ("", "\n \n", b"\xef\xbb\xbf\r\n"):
        with pytest.raises(DataError, match="the file is empty"):
            read(write(tmp_path, content))
    with pytest.raises(DataError, match=r"neither JSONL nor a table: the first line is 'Once upon a time\.'"):
        read(write(tmp_path, "Once upon a time.\nThere was a kettle.\n"))
    with pytest.raises(DataError, match="a header and nothing below it"):
        read(write(tmp_path, "text,label\n"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\0\0", "gzip archive.*gunzip"),
        (b"PK\x03\x04\x14\0", "zip archive or Excel"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"\x80\x04\x95\x10\0", "pickle"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (bytes(range(256)) * 4, "binary file"),
    ],
)
def test_what_is_no_text_is_recognised_by_content(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(write(tmp_path, content, "data.jsonl"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=f"the text is {encoding[:6].upper()}.*iconv"):
        read(write(tmp_path, (GOOD + "\n").encode(encoding) * 20))


def test_a_file_without_one_good_row_shows_the_first_flaws(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": NaN}\n' * 8)
    with pytest.raises(DataError, match=r"(?s)none of its 8 rows can be read:.*line 1 holds NaN.*and 3 more"):
        read(path)
    assert len(scan(path).findings) == 8


def test_the_name_of_a_file_does_not_count(tmp_path: Path) -> None:
    assert read(write(tmp_path, "text,label\na,b\n", "data.jsonl")).layout == "CSV text -> label"
    assert read(write(tmp_path, GOOD, "data.csv")).layout == "prompt / response"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_end_in_findings_or_a_sentence_never_in_a_crash(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole = [
        (GOOD + "\n").encode() * 4,
        f"[{GOOD},\n{GOOD}]".encode(),
        b'text,label\n"a, ""b""\nc",d\ne,f\n',
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant"}]}\n' * 2,
    ]
    for round_ in range(150):
        content = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            content[place : place + chance.randint(0, 3)] = chance.choice(
                [
                    b"",
                    b'"',
                    b"{",
                    b"]",
                    b",",
                    b"\n",
                    b"\r",
                    b"\xff",
                    b"\0",
                    b"null",
                    b"\\",
                    b"[[",
                    bytes([chance.randrange(256)]),
                ]
            )
        try:
            dataset = scan(write(tmp_path, bytes(content), f"{round_}"))
        except (DataError, UsageError) as error:
            assert str(tmp_path) in str(error)
        else:
            bad = sum(finding.severity == "error" for finding in dataset.findings)
            assert dataset.rows == len(dataset.examples) + bad


# Real files


def test_public_files_are_read_whole(shared: Path) -> None:
    data = shared / "data"
    banking = read(data / "banking77" / "train.csv")
    assert (banking.layout, len(banking.examples), len({row.answer for row in banking.examples})) == (
        "CSV text -> category",
        10_003,
        77,
    )
    support = read(data / "bitext-customer-support" / "support.csv")
    assert (support.layout, len(support.examples)) == ("CSV instruction -> response", 3_609)
    assert len(read(data / "gsm8k" / "train.jsonl").examples) == 7_473
    assert len(read(data / "format-samples" / "identity.json").examples) == 91
    with pytest.raises(DataError, match="preference pair"):
        read(data / "format-samples" / "dpo_en_demo.json")
    with pytest.raises(DataError, match="tools"):
        read(data / "format-samples" / "glaive_toolcall_en_demo.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"Dear all\nplease find\n", b'{"prompt": 1\n' * 3, b'{"foo": 1}\n', b"text,label\n", b"[1, 2]", bytes(9000)],
)
def test_what_is_no_data_is_known_without_reading_what_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(WeftError) as whole:
        read(path)
    with pytest.raises(type(whole.value), match=re.escape(str(whole.value))):
        require_readable(path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"prompt": "a"}\n' + '{"prompt": "a", "completion": "b"}\n' * 50, ("prompt", "completion")),
        ("text,label\n" + "a,b\n" * 50, ("text", "label")),
    ],
)
def test_the_first_row_that_can_be_read_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, str]
) -> None:
    path, looked = write(tmp_path, text), []
    understood = read_module._understood
    monkeypatch.setattr(read_module, "_understood", lambda *given: looked.append(1) or understood(*given))
    require_readable(path)
    assert len(looked) <= 2
    require_readable(path, input=names[0], output=names[1])
    with pytest.raises(UsageError, match="go together"):
        require_readable(path, input=names[0])
