"""The training benchmark's command line, rows and tables; nothing is trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, train
from benchmarks.peers.cell import Cell
from benchmarks.peers.race import refuse
from benchmarks.peers.settings import Setting
from benchmarks.peers.tune import Tuned
from weft.errors import RunError, UsageError


def row(cell: Cell, **values: Any) -> dict[str, Any]:
    return {
        **cell.to_json(),
        "seconds": {"weft": 0.5, "transformers": 3.0, "trl": 4.0},
        "ratio": 6.0,
        "ratios": [5.5, 6.5],
        "best_peer": "transformers",
        "settings": {"transformers": "fp32 + oneDNN", "trl": "fp32"},
        "floor_share": 0.44,
        "peak_memory_bytes": {"weft": 2**29, "transformers": 2**31, "trl": 2**31},
        "gradient_error": {"weft": {"relative": 9e-7}},
        **values,
    }


ABOUT = {
    "measured": "2026-11-22", "weft": "0", "command": "scripts/bench train", "machine": "2 cores.",
    "versions": {"trl": "1.16.0"}, "curve": "",
}  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Cell, Any]]:
    """A benchmark whose measurements are invented; returns what was asked of it."""
    asked: list[tuple[Cell, Any]] = []

    def measured(stage: Any, cell: Cell, rounds: int, known: Any = None) -> tuple[dict[str, Any], dict[str, Tuned]]:
        asked.append((cell, known))
        if cell.prefix == 13:
            raise RunError("no luck")
        return row(cell), {peer: Tuned(Setting(), {}, (9.0,)) for peer in ("transformers", "trl")}

    monkeypatch.setattr(train, "measured", measured)
    monkeypatch.setattr(train.Stage, "versions", lambda self: {"trl": "1.16.0"})
    return asked


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        train.main(words)
    return int(str(end.value))


def test_every_combination_is_a_cell_and_the_command_repeats_them() -> None:
    given = train.parsed(["--models", "S", "--prefix", "0,256", "--adapt", "qv", "--json", "/a/b.json", "--docs"])
    assert [str(cell) for cell, _ in train.cells(given)][:2] == [
        "S fp32, prefix 0, qv, batch 16, sft",
        "S fp32, prefix 256, qv, batch 16, sft",
    ]
    assert len(train.cells(given)) == 4
    words = "--models S --precision fp32,bf16 --prefix 0,256 --adapt qv --batch 16 --rounds 5 --threads 1 --method sft"
    assert train.command(given) == f"scripts/bench train {words}"
    assert train.command(train.parsed(["--without-compile", "--curves"])).endswith("--without-compile --curves")
    some = train.parsed(["--curves", "stretch,model"])
    assert train.command(some).endswith("--method sft --curves stretch,model")
    assert {name for _, name in train.cells(some)} == {"stretch", "model"}


def test_impossible_values_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("--models", "S,XL"), "--models XL: expected some of XS,S,M"),
        (("--adapt", "all"), "expected some of qv,all-linear,full"),
        (("--prefix", "-1"), "expected numbers of tokens"),
        (("--rounds", "0"), "--rounds 0: expected 1 or more"),
    ):
        assert run(*words) == 2
        assert message in capsys.readouterr().err


def test_rows_are_written_after_each_cell_and_a_failed_one_is_kept(
    fake: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert run("--models", "S", "--precision", "fp32", "--adapt", "qv", "--prefix", "0,13", "--json", str(file)) == 3
    rows = json.loads(file.read_text())["rows"]
    assert [one.get("failed") for one in rows] == [None, "no luck"]
    assert "no luck" in capsys.readouterr().out
    assert run("--models", "S", "--precision", "fp32", "--adapt", "qv", "--prefix", "256", "--json", str(file),
               "--add", str(file)) == 0  # fmt: skip
    assert [one["prefix"] for one in json.loads(file.read_text())["rows"]] == [0, 13, 256]


def test_settings_are_looked_for_in_each_cell_or_once_by_wish(fake: list[tuple[Cell, Any]]) -> None:
    words = ("--models", "S", "--precision", "fp32", "--adapt", "qv", "--prefix", "0,256")
    assert run(*words) == 0 and [known for _, known in fake] == [None, None]
    fake.clear()
    assert run(*words, "--tune", "once") == 0
    assert fake[0][1] is None and set(fake[1][1]) == {"transformers", "trl"}


def test_a_curve_changes_one_thing_and_takes_the_best_peer_alone(
    fake: list[tuple[Cell, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--curves", "--models", "S", "--precision", "fp32", "--prefix", "256", "--adapt", "qv") == 0
    assert fake[0] == (Cell("S", "fp32", 256, "qv", 16), None)
    assert len({cell for cell, _ in fake}) == len(fake)  # no cell twice
    assert {tuple(known) for cell, known in fake if known} == {("transformers",)}
    out = capsys.readouterr().out
    assert "| prefix | weft, ms/example |" in out and "| stretch |" in out and "31.2" in out


def test_the_table_shows_time_floor_setting_ratio_and_memory() -> None:
    good = {**row(Cell("S", "fp32", 256, "qv", 16)), **ABOUT}
    failed = {**Cell("M", "bf16", 0, "full", 16).to_json(), "failed": "trl: its process ended", **ABOUT}
    text = train.section([good, failed])
    assert text.startswith("### 2026-11-22, weft 0\n\n`scripts/bench train`\n\n2 cores. Peers: trl 1.16.0.")
    for cell in ("0.500", "44 %", "transformers (fp32 + oneDNN)", "6.00 (5.50 to 6.50)", "trl (fp32) 4.000",
                 "512 / 2,048 MiB", "9e-07", "failed", "trl: its process ended"):  # fmt: skip
        assert cell in text


def test_unequal_work_is_not_timed() -> None:
    cell = Cell("S", "fp32", 256, "qv", 16)
    fine = {"relative": 1e-6, "tensors": 24, "missing": []}
    refuse(cell, fine, 1e-6)
    with pytest.raises(RunError, match=r"our gradient is off by 1.0e-02.*Only equal work is timed"):
        refuse(cell, {**fine, "relative": 1e-2}, 0.0)
    with pytest.raises(RunError, match=r"our losses by 1\.0e-03"):
        refuse(cell, fine, 1e-3)
    with pytest.raises(RunError, match=r"no tensor of our gradient has a name of theirs \(\['x'\]\)"):
        refuse(cell, {"relative": None, "tensors": 0, "missing": ["x"]}, 0.0)


def test_a_strange_file_and_a_missing_environment_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.json").write_text('{"rows": [{}]}')
    assert run("--add", str(tmp_path / "rows.json")) == 2
    assert "not a file of this benchmark's rows" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"the peers' environment \(.venv-peers\) is missing"):
        train.Stage(tmp_path, tmp_path / "python").versions()


def test_the_committed_page_has_a_place_for_the_table(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_bytes((root / page.PAGE).read_bytes())
    page.update("train", "table", copy)
