"""What a job learns and what it validates on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.errors import DataError
from weft.serve.work.examples import examples_of

WORDS = (
    *("river", "candle", "orbit", "velvet", "hammer", "pocket", "winter"),
    *("saddle", "copper", "meadow", "ladder", "violin", "anchor", "basket"),
)


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_without_a_validation_file_some_rows_are_held_out_and_no_row_is_lost(tmp_path: Path) -> None:
    rows = [_chat(f"{word} {number}", f"answer {number}") for number, word in enumerate(WORDS)]
    given = examples_of("supervised", _write(tmp_path / "t", rows), None, choose=True)
    held_out = [example.line for example in given.validation]
    assert held_out and given.note == (
        f"{len(held_out)} of the 14 examples were held out to decide how long to train and are not learned "
        f"(lines {', '.join(map(str, held_out))}). Name a validation_file or a number of epochs (n_epochs) to learn "
        "from every row."
    )
    lines = sorted(example.line for example in (*given.train, *given.validation))
    assert lines == list(range(1, len(rows) + 1))
    assert [example.line for example in given.train] == sorted(example.line for example in given.train)


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_where_nothing_is_chosen_every_row_is_learned(tmp_path: Path, method: str) -> None:
    rows = [_chat(word, "yes") for word in WORDS]
    pairs = [{"prompt": word, "chosen": "good", "rejected": "bad"} for word in WORDS]
    given = examples_of(method, _write(tmp_path / "t", pairs if method == "dpo" else rows), None, choose=False)
    assert (len(given.train), given.validation, given.note) == (len(WORDS), (), "")


def test_a_validation_file_is_taken_as_it_is(tmp_path: Path) -> None:
    rows = [_chat(word, "yes") for word in WORDS]
    given = examples_of("supervised", _write(tmp_path / "t", rows), _write(tmp_path / "v", rows[:2]), choose=False)
    assert (len(given.train), len(given.validation), len(given.sha256)) == (len(WORDS), 2, 2)


def test_examples_that_are_all_alike_are_validated_on_themselves_and_the_owner_hears_of_it(tmp_path: Path) -> None:
    given = examples_of("supervised", _write(tmp_path / "t", [_chat("hello", "world")] * 12), None, choose=True)
    assert len(given.train) == len(given.validation) == 12
    assert "The 12 examples are all alike" in given.note


def test_pairs_are_held_out_as_a_whole(tmp_path: Path) -> None:
    rows = [{"prompt": f"{word} {n}", "chosen": "good", "rejected": "bad"} for n, word in enumerate(WORDS)]
    given = examples_of("dpo", _write(tmp_path / "t", rows), None, choose=True)
    assert len(given.train) + len(given.validation) == len(rows)
    assert given.validation[0].chosen == "good"
    assert len(examples_of("dpo", tmp_path / "t", tmp_path / "t", choose=True).validation) == len(rows)


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can be read"):
        examples_of("supervised", _write(tmp_path / "t", [{"messages": []}]), None, choose=True)
