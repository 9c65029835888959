"""The time to the first step: a contestant that never gets there is told with its words, the others are compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import start
from weft.errors import RunError


def test_a_process_is_ended_when_its_first_step_is_there(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    assert 0 < start._until([sys.executable, "-c", code], lambda _: mark.exists()) < 30


def test_a_process_that_ends_well_between_two_looks_has_not_failed() -> None:
    looks = iter([False, True])  # alive when first asked, gone when asked why
    assert start._until([sys.executable, "-c", ""], lambda process: process.wait() == 0 and next(looks)) > 0


def test_a_contestant_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(RunError, match=r"-c raise SystemExit\('no room'\): no first step\.\nno room"):
        start._until([sys.executable, "-c", "raise SystemExit('no room')"], lambda process: process.poll() == 0)


def test_rows_hold_medians_without_the_first_round_and_ratios_over_weft(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"weft": iter([9.0, 2.0, 4.0, 3.0]), "trl": iter([9.0, 6.0, 8.0, 9.0])}
    contestants = {name: lambda _, left=left: next(left) for name, left in times.items()}
    monkeypatch.setattr(start, "CONTESTANTS", contestants)
    ours, theirs = start.measured(3)
    assert (ours["median_seconds"], ours["ratio"], ours["seconds"]) == (3.0, 1.0, [2.0, 4.0, 3.0])
    assert (theirs["median_seconds"], theirs["ratio"]) == (8.0, 2.67)
    assert "| trl        | 8.00    | 6.00 to 9.00 | 2.67" in start.summary([ours, theirs])
