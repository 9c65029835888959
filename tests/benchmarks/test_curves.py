"""Two hundred steps beside TRL's trainers on the same batches: losses that stay together, not only the first of them.

TRL lives in the environment of the benchmark (`scripts/bench train` makes it); without it these are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.cell import Cell
from benchmarks.peers.match import OURS, Stage
from benchmarks.peers.settings import Setting

pytestmark = pytest.mark.slow


def _losses(stage: Stage, kind: str, cell: Cell, steps: int) -> list[float]:
    with stage.worker(kind, 1, Setting()) as worker:
        stage.prepare(worker, cell, Setting(), None, None)
        return [worker.ask(do="step")["loss"] for _ in range(steps)]


@pytest.mark.parametrize(
    ("method", "steps", "allowed"), [("sft", 200, 1e-4), ("dpo", 4, 1e-5)], ids=["sft, 200 steps", "dpo, 4 steps"]
)
def test_losses_stay_with_those_of_trl(root: Path, tmp_path: Path, method: str, steps: int, allowed: float) -> None:
    python = root / ".venv-peers" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-peers: scripts/bench train makes it")
    cell = Cell("S", "fp32", prefix=32, adapt="qv", batch=4, method=method)
    stage = Stage(tmp_path, python, compiling=False)
    try:
        ours, theirs = (_losses(stage, kind, cell, steps) for kind in (OURS, "trl"))
    finally:
        stage.close()
    assert max(abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True)) <= allowed
