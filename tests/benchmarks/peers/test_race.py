"""Who is held in memory when, and which batch is timed; the contestants are invented."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.cell import Cell
from benchmarks.peers.race import Truth, race
from benchmarks.peers.settings import Setting
from weft.errors import RunError

CELL = Cell("XS", "fp32", 0, "qv", 4)
LOSSES = (3.0, 2.0, 1.0, 0.5)
"""Of the four batches."""


@dataclass
class Ground:
    """A stage whose contestants make steps of a known length."""

    apart: bool
    folder: Path = Path("nowhere")
    held: set[str] = field(default_factory=set)
    most: int = 0
    steps: list[tuple[str, int]] = field(default_factory=list)
    gradient_error: float = 0.0

    def worker(self, name: str, threads: int, setting: Setting) -> Worker:
        self.held.add(name)
        self.most = max(self.most, len(self.held))
        return Worker(self, name)

    def prepare(self, worker: Worker, *_: Any, batch: int = 0) -> None:
        worker.batch = batch

    def ask(self, **command: Any) -> dict[str, Any]:
        return {name: {"relative": self.gradient_error, "tensors": 2, "missing": []} for name in command["others"]}


@dataclass
class Worker:
    ground: Ground
    name: str
    batch: int = 0

    def ask(self, do: str) -> dict[str, Any]:
        batch = self.batch % 4
        self.batch += 1
        self.ground.steps.append((self.name, batch))
        length = (1.0 if self.name == "weft" else 3.0) + batch
        return {"seconds": length, "cpu_seconds": length, "loss": LOSSES[batch], "examples": 4,
                "peak_memory_bytes": 100 * batch}  # fmt: skip

    def close(self) -> None:
        self.ground.held.discard(self.name)


def run(ground: Ground, rounds: int = 3) -> dict[str, Any]:
    both = {"weft": Setting(), "trl": Setting()}
    return race(ground, CELL, both, rounds, Truth(LOSSES[:3], Path("truth")))  # type: ignore[arg-type]


def test_all_stay_from_the_first_step_to_the_last_and_take_turns() -> None:
    ground = Ground(apart=False)
    found = run(ground)
    assert ground.most == 2 and not ground.held
    assert ground.steps[6:] == [("weft", 3), ("trl", 3), ("weft", 0), ("trl", 0), ("weft", 1), ("trl", 1)]
    assert found["rounds"] == {"weft": [4.0, 1.0, 2.0], "trl": [6.0, 3.0, 4.0]}
    assert found["seconds"] == {"weft": 2.0, "trl": 4.0} and found["peak_memory_bytes"] == {"weft": 300, "trl": 300}


def test_apart_one_is_held_at_a_time_and_the_rounds_still_take_turns_over_the_batches() -> None:
    ground = Ground(apart=True)
    found = run(ground)
    assert ground.most == 1 and not ground.held
    assert ground.steps[6:] == [(name, first + step) for first in range(3) for name in ("weft", "trl")
                                for step in (0, 1)]  # fmt: skip
    assert found["rounds"] == {"weft": [2.0, 3.0, 4.0], "trl": [4.0, 5.0, 6.0]}
    assert found["loss_error"] == {"weft": 0.0, "trl": 0.0}


@pytest.mark.parametrize("apart", [False, True])
def test_nobody_stays_behind_when_the_work_is_unequal(apart: bool) -> None:
    ground = Ground(apart, gradient_error=1e-2)
    with pytest.raises(RunError, match="Only equal work is timed"):
        run(ground)
    assert not ground.held and ("weft", 3) not in ground.steps
