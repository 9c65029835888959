"""A mended file holds what was good, once, and says each kind of change with its count."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.data.mend import mend, write_jsonl
from weft.data.read import read, scan
from weft.errors import UsageError


def test_each_mend_is_made_and_counted(tmp_path: Path) -> None:
    rows = [f'{{"text": "question {n * n} of {n}", "label": "{("refund", "delivery")[n % 2]}"}}' for n in range(60)]
    rows[2] = '{"text": NaN}'
    rows[4] = '{"text": "a", "label": " "}'
    rows[6] = '{"text": " six ", "label": "refund\\n"}'
    rows[8] = '{"text": "eight", "label": "Refund."}'
    rows[10] = rows[12]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(rows))
    mended = mend(scan(path))
    assert mended.changes == (
        "1 row left out that could not be read",
        "1 row left out with an empty question or answer",
        "1 row trimmed of outer whitespace",
        "1 label given the usual spelling",
        "1 row left out that repeated another",
    )
    out = tmp_path / "mended.jsonl"
    write_jsonl(out, mended.examples)
    again = read(out)
    assert [row.messages for row in again.examples] == [row.messages for row in mended.examples]
    assert (len(again.examples), {row.answer for row in again.examples}) == (57, {"refund", "delivery"})
    assert mend(again).changes == ()


def test_a_spelling_without_a_clear_majority_is_left_to_a_person(tmp_path: Path) -> None:
    rows = [f"question {n * n} of {n},{('refund', 'Refund', 'delivery')[n % 3]}" for n in range(60)]
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "\n".join(rows))
    assert {row.answer for row in mend(scan(path)).examples} == {"refund", "Refund", "delivery"}


def test_nothing_is_overwritten_and_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_jsonl(tmp_path / "there", [])
    with pytest.raises(UsageError, match="make it first"):
        write_jsonl(tmp_path / "nowhere" / "out.jsonl", [])
    assert (tmp_path / "there").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_jsonl(tmp_path / "out.jsonl", (1 // 0 for _ in range(1)))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
