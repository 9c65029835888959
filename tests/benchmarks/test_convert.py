"""Public data become files that weft reads, and nothing is invented on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import datasets
from weft.data.read import read
from weft.errors import DataError, UsageError


def words(text: str) -> int:
    return len(text.split())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def guest(text: str, spans: Mapping[str, tuple[int | None, int]], asked: list[str] | None = None) -> dict[str, Any]:
    """A row as the source has it: startIndex absent where it is None."""
    labels = [
        {"slot": slot, "valueSpan": {"endIndex": end} | ({} if start is None else {"startIndex": start})}
        for slot, (start, end) in spans.items()
    ]
    context = {} if asked is None else {"context": {"requestedSlots": asked} if asked else {}}
    return {"userInput": {"text": text}, **context, **({"labels": labels} if labels else {})}


def advisory(text: str, package: str, *fixed: str, git: str | None = None) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, *({"fixed": version} for version in fixed)]}]
    if git:
        ranges.insert(0, {"type": "GIT", "events": [{"introduced": "0"}, {"fixed": git}]})
    return {"details": text, "affected": [{"package": {"name": package}, "ranges": ranges}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder laid out like the public data, with rows made up for this test."""
    folder = tmp_path / "data"
    for name in ("banking77", "restaurants8k", "pypa-advisories"):
        (folder / name).mkdir(parents=True)
    (folder / "banking77" / "train.csv").write_bytes(b'text,category\r\n"Two\nlines, one row",card\r\nHello,other\r\n')
    guests = [
        guest("8pm", {"time": (None, 3)}, ["time"]),
        guest("Ann Lee, for  quarter to 8pm", {"first_name": (0, 3), "last_name": (4, 7), "time": (13, 28)}),
        guest("Is there parking?", {}, []),
        guest("Six on May 1st", {"date": (7, 14), "people": (None, 3)}, ["people", "date"]),
    ]
    (folder / "restaurants8k" / "train_2.json").write_text(json.dumps(guests))
    advisories = [
        advisory("Flow is broken. Fixed in 2.10.0.", "flow-gpu", "2.9.1", "2.10.0", git="abcdef9999"),
        advisory("Flow is broken. Fixed in 2.10.0.", "flow", "2.10.0", "2.9.1", git="abcdef9999"),
        advisory("Nobody mended Tree.", "tree", git="0123456789"),
    ]
    (folder / "pypa-advisories" / "advisories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in advisories))
    return folder


def test_banking_is_copied_byte_for_byte_and_named_by_its_columns(data: Path, tmp_path: Path) -> None:
    made = datasets.convert("banking77", data, tmp_path)
    assert made.path.read_bytes() == (data / "banking77" / "train.csv").read_bytes()
    assert (made.rows, made.arguments) == (2, ("--input", "text", "--output", "category"))


def test_a_restaurant_answer_holds_five_slots_as_they_stand_in_the_words(data: Path, tmp_path: Path) -> None:
    made = datasets.convert("restaurants8k", data, tmp_path)
    assert [(row["prompt"], row["completion"]) for row in lines(made.path)] == [
        (
            "8pm\n(asked for: time)",
            '{"people":null,"date":null,"time":"8pm","first_name":null,"last_name":null}',
        ),
        (
            "Ann Lee, for  quarter to 8pm",
            '{"people":null,"date":null,"time":"quarter to 8pm","first_name":"Ann","last_name":"Lee"}',
        ),
        (
            "Is there parking?",
            '{"people":null,"date":null,"time":null,"first_name":null,"last_name":null}',
        ),
        (
            "Six on May 1st\n(asked for: people, date)",
            '{"people":"Six","date":"May 1st","time":null,"first_name":null,"last_name":null}',
        ),
    ]


def test_an_unknown_slot_or_an_empty_span_names_its_row(data: Path, tmp_path: Path) -> None:
    source = data / "restaurants8k" / "train_2.json"
    for row in (guest("a table", {"table": (2, 7)}), guest("a table", {"time": (1, 2)})):
        source.write_text(json.dumps([guest("hello", {}), row]))
        with pytest.raises(DataError, match=r"row 2: slot '\w+'"):
            datasets.convert("restaurants8k", data, tmp_path)


def test_an_advisory_gives_its_package_and_highest_fixed_version_and_commits_do_not_count(
    data: Path, tmp_path: Path
) -> None:
    made = datasets.pypa(data, tmp_path, words)
    assert [json.loads(row["completion"]) for row in lines(made.path)] == [
        {"package": "flow", "fixed": "2.10.0"},
        {"package": "tree", "fixed": None},
    ]
    assert made.notes[0].startswith("1 advisories merged")
    assert made.notes[2].startswith("1 of 2 have no fixed version")


def test_a_long_advisory_ends_after_the_last_sentence_that_fits(data: Path, tmp_path: Path) -> None:
    text = "One two three. Four five v1.2.3 six!\nSeven eight nine."
    assert datasets.beginning(text, 10, words) == text
    assert datasets.beginning(text, 9, words) == "One two three. Four five v1.2.3 six!"
    assert datasets.beginning(text, 6, words) == "One two three."
    assert datasets.beginning(text, 2, words) == ""
    made = datasets.pypa(data, tmp_path, words, most=5)
    assert [row["prompt"] for row in lines(made.path)] == ["Flow is broken.", "Nobody mended Tree."]
    assert made.notes[1].startswith("1 texts cut after a sentence to at most 5 tokens")


def test_a_version_is_looked_for_as_a_whole(data: Path, tmp_path: Path) -> None:
    rows = [advisory("Mended in v1.1.", "a", "1.1"), advisory("Mended in 1.1.5.", "b", "1.1")]
    (data / "pypa-advisories" / "advisories.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "the fixed version stands in 1 of the other 2 texts" in datasets.pypa(data, tmp_path, words).notes[3]


def test_a_missing_folder_file_or_unknown_name_says_what_to_give(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder.*--data DIR"):
        datasets.convert("banking77", tmp_path / "nowhere", tmp_path)
    (data / "banking77" / "train.csv").unlink()
    with pytest.raises(UsageError, match=r"train\.csv: no such file.*--data DIR"):
        datasets.convert("banking77", data, tmp_path)
    with pytest.raises(UsageError, match="there are banking77, restaurants8k, pypa"):
        datasets.convert("squad", data, tmp_path)


def test_the_public_files_convert_completely_and_always_to_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    for name, rows in (("banking77", 10_003), ("restaurants8k", 2_049), ("pypa", 859)):
        first, again = (datasets.convert(name, shared / "data", tmp_path / place) for place in ("a", "b"))
        assert first.rows == rows
        assert first.path.read_bytes() == again.path.read_bytes()
        assert first.notes == again.notes
        columns = {"input": "text", "output": "category"} if name == "banking77" else {}
        dataset = read(first.path, **columns)
        assert len(dataset.examples) == rows
        assert not [finding for finding in dataset.findings if finding.severity != "note"]


def test_every_value_of_a_real_restaurant_answer_stands_in_its_prompt(shared: Path, tmp_path: Path) -> None:
    made = datasets.convert("restaurants8k", shared / "data", tmp_path)
    values = 0
    for row in lines(made.path):
        answer = json.loads(row["completion"])
        assert list(answer) == list(datasets.SLOTS)
        said = row["prompt"].split("\n(asked for: ")[0]
        for value in filter(None, answer.values()):
            assert value in said and value == value.strip()
            values += 1
    assert values == 1_832  # spans that the data's README counts


def test_no_real_advisory_is_longer_than_the_embedded_base_can_hold(shared: Path, tmp_path: Path) -> None:
    count = datasets.nano_tokens()
    made = datasets.convert("pypa", shared / "data", tmp_path)
    rows = lines(made.path)
    assert max(count(row["prompt"]) + count(row["completion"]) for row in rows) <= datasets.MOST_TOKENS
    assert len({row["prompt"] for row in rows}) == len(rows)
