"""Two hundred steps beside TRL's trainers on the same batches: losses that stay together, not only the first of them.

TRL lives in the environment of the benchmark (`scripts/bench train` makes it); without it these are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.cell import Cell
from benchmarks.peers.race import OURS
from benchmarks.peers.settings import Setting
from benchmarks.peers.stage import Stage

pytestmark = pytest.mark.slow


def _losses(stage: Stage, kind: str, cell: Cell, steps: int) -> list[float]:
    with stage.worker(kind, 1, Setting()) as worker:
        stage.prepare(worker, cell, Setting(), None)
        return [worker.ask(do="step")["loss"] for _ in range(steps)]


@pytest.mark.parametrize(
    ("method", "adapt", "steps", "allowed"),
    [("sft", "all-linear", 200, 1e-4), ("sft", "full", 200, 1e-4), ("dpo", "all-linear", 8, 1e-5)],
)
def test_losses_stay_with_those_of_trl(
    root: Path, tmp_path: Path, method: str, adapt: str, steps: int, allowed: float
) -> None:
    python = root / ".venv-peers" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-peers: scripts/bench train makes it")
    cell = Cell("XS", "fp32", prefix=40, adapt=adapt, batch=4, method=method)
    stage = Stage(tmp_path, python, compiling=False)
    try:
        ours, theirs = (_losses(stage, kind, cell, steps) for kind in (OURS, "trl"))
    finally:
        stage.close()
    off = [abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True)]
    print(f"{method}, {adapt}, {steps} steps: {theirs[0]:.4f} … {theirs[-1]:.4f}, furthest apart {max(off):.1e}")
    assert abs(theirs[-1] - theirs[0]) > 10 * allowed * theirs[0], "nothing moved: equal losses would say little"
    assert max(off) <= allowed, f"step {off.index(max(off))} is the furthest"
