"""The road benchmark takes its figures from the report and the operating system, and the page from its markers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, road
from weft.errors import UsageError

SHARE = {"value": 0.9, "low": 0.85, "high": 0.94}


def report() -> dict[str, Any]:
    """The parts of report.json that a row is made of."""
    arms = [
        {
            "name": name,
            "n": 100,
            "metrics": {"accuracy": SHARE, "format_consistency": SHARE},
            "tokens_per_request": 10.0,
            "seconds_per_request": 0.1,
        }
        for name in ("zero-shot", "classical", "tuned")
    ]
    gap = {"arms": ["classical", "tuned"], "difference": -0.02, "low": -0.05, "high": 0.01, "p": 0.1, "n": 100}
    return {
        "base": "weft-nano",
        "base_details": {"fingerprint": "abc"},
        "data": {"rows": 500, "train": 350, "validation": 50, "test": 100, "findings": [{}]},
        "task": {"metric": "accuracy"},
        "arms": arms,
        "comparisons": [{"arms": ["zero-shot", "tuned"], "difference": 0.5}, {**gap, "p_adjusted": 0.3}],
        "training": {"steps": 9, "best_step": 6, "stopped_because": "all epochs done", "seconds": 1.0, "curve": {}},
        "verdict": {"choice": "classical", "reason": "It is as good."},
    }


def measured(name: str, **values: Any) -> dict[str, Any]:
    cost = {"name": name, "seconds": 61.0, "cpu_seconds": 59.0, "peak_memory_bytes": 2**30, "exit_code": 0, "notes": []}
    about = {"measured": "2026-11-22", "command": "scripts/bench road --seed 0", "machine": "2 cores.", "weft": "0"}
    return {**cost, **about, **road.from_report(report()), **values}


def test_a_row_repeats_the_report_and_turns_the_difference_to_tuned_minus_classical() -> None:
    row = road.from_report(report())
    assert row["arms"]["tuned"]["value"] == 0.9 and row["arms"]["tuned"]["format_consistency"] == SHARE
    assert row["tuned_minus_classical"] == {"difference": 0.02, "low": -0.01, "high": 0.05, "p": 0.3, "n": 100}
    assert (row["verdict"], row["findings"]) == ("classical", 1)


def test_a_run_without_training_or_classical_arm_still_makes_a_row() -> None:
    row = road.from_report({**report(), "training": None, "comparisons": [], "arms": []})
    assert row["training"] is None and row["tuned_minus_classical"] is None
    line = road.summary([measured("tickets", **row)]).splitlines()[-1]
    assert "tickets" in line and "90.0" not in line


def test_the_table_shows_cost_verdict_shares_and_the_failed_run() -> None:
    failed = {**measured("pypa"), "failed": "weft: out of memory.", "exit_code": 3}
    text = road.section([measured("banking77"), failed])
    assert "| banking77 | 500  | 1:01 | 0:59     | 1,024 MiB" in text
    assert "90.0 (85.0 to 94.0)" in text and "+2.0 (-1.0 to +5.0), p 0.300" in text
    assert "failed (exit 3)" in text
    assert text.startswith("### 2026-11-22, weft 0\n\n`scripts/bench road --seed 0`\n\n2 cores.")


def test_the_command_of_a_table_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    command = road._command(1, ["--base", str(tmp_path / "small model"), "--epochs", "2"])
    assert command == "scripts/bench road --seed 1 -- --base 'small model' --epochs 2"


def test_a_process_is_timed_and_weighed_alone_and_keeps_no_setting_of_ours(root: Path) -> None:
    # In a small process of its own: a child's peak memory begins with that of the process it was forked from.
    code = """
import sys
from benchmarks import road
big = "import os, sys; x = b'1' * 300_000_000; sys.exit('WEFT_EPOCHS' in os.environ)"
large = road.spend([sys.executable, "-c", big])
small = road.spend([sys.executable, "-c", "import sys; print('last words', file=sys.stderr); sys.exit(3)"])
assert large.exit_code == 0 and large.peak_memory_bytes > 300_000_000 and large.cpu_seconds > 0, large
assert small.peak_memory_bytes < 200_000_000, small
assert small.exit_code == 3 and small.last == "last words", small
"""
    environment = {**os.environ, "WEFT_EPOCHS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rows_that_were_measured_one_by_one_come_together_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(road, "measured", lambda case, *_: measured(case.name))
    file = tmp_path / "road.json"
    for name in ("intents", "tickets"):
        with pytest.raises(SystemExit, match="0"):
            road.main(["--only", name, "--json", str(file), "--add"])
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["tickets", "intents"]


def test_a_used_folder_and_a_strange_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text("{}")
    for arguments, message in (
        (["--keep", str(tmp_path)], "not empty"),
        (["--only", "intents", "--add"], "name it with --json"),
        (["--only", "intents", "--add", "--json", str(tmp_path / "rows.json")], "not a file of rows"),
    ):
        with pytest.raises(SystemExit, match="2"):
            road.main(arguments)
        assert message in capsys.readouterr().err


def test_a_table_replaces_only_what_stands_between_its_markers(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- road:begin -->\nold\n<!-- road:end -->\nafter\n")
    page.update("road", "new", file)
    page.update("road", "newer", file)
    assert file.read_text() == "before\n<!-- road:begin -->\nnewer\n<!-- road:end -->\nafter\n"
    with pytest.raises(UsageError, match=r"expected <!-- engine:begin --> once"):
        page.update("engine", "new", file)
    with pytest.raises(UsageError, match="cannot be read"):
        page.update("road", "new", tmp_path / "missing.md")


def test_the_committed_page_has_a_place_for_each_benchmark(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_bytes((root / page.PAGE).read_bytes())
    for name in ("road", "engine"):
        page.update(name, "table", copy)
