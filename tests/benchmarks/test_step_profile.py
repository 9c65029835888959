"""Where a step's time goes, on a tiny cell: every part is named once and the parts are the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import page, step_profile


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(step_profile.grounds, "PEAK_SECONDS", 0.02)
    threads, matmul = torch.get_num_threads(), torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    route = matmul.fp32_precision
    yield
    torch.set_num_threads(threads)
    matmul.fp32_precision = route


def test_the_kinds_of_work_are_the_whole_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    step_profile.main(["--models", "XS", "--precision", "fp32", "--prefix", "30", "--batch", "4", "--json", str(file)])
    [row] = json.loads(file.read_text())["rows"]
    assert set(row["shares"]) == {*step_profile.KINDS, step_profile.REST}
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3) and min(row["shares"].values()) >= 0
    assert row["shares"]["matrix products"] > 0.02 and row["shares"]["batched products of attention"] > 0.02
    assert row["operations"] > 1000 and row["seconds"] > 0 and 0 < row["floor_share"] < 1
    said = capsys.readouterr().out
    assert "XS fp32, prefix 30, qv, batch 4, sft" in said and "operations in a step" in said


def test_impossible_sizes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        step_profile.main(["--batch", "0"])
    assert "--batch 0 --prefix 256: expected at least 1 example and 0 tokens" in capsys.readouterr().err


def test_the_committed_page_has_a_place_for_the_profile(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_bytes((root / page.PAGE).read_bytes())
    page.update("profile", "table", copy)
