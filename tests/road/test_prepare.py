"""How a file's examples are divided before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.graders.shape import are_labels
from weft.progress import Silent
from weft.road.prepare import prepare
from weft.road.settings import DataConfig
from weft.testing import tiny_base


def test_labels_that_only_the_user_calls_so_are_spread_over_the_parts(tmp_path: Path, write_labels: Any) -> None:
    # Thirty numbers are taken for results of a calculation, not for labels.
    rows = [(f"{chr(97 + n % 26) * 7} {n * n} {chr(122 - n // 14) * 9}", str(100 + n % 30)) for n in range(360)]
    assert not are_labels([label for _, label in rows])
    write_labels(tmp_path / "a.csv", rows)
    base = tiny_base()
    missing = {}
    for task in (None, "classification"):
        config = DataConfig(task=task)
        parts = prepare(tmp_path / "a.csv", config, base.chat, base.context, Silent()).split
        missing[task] = [
            len({label for _, label in rows} - {row.answer for row in part})
            for part in (parts.train, parts.validation, parts.test)
        ]
    assert missing["classification"] == [0, 0, 0]
    assert missing[None] != [0, 0, 0]
