"""Contestants in turn, A B C A B C: every step's seconds, memory and loss, once losses and gradients are right.

A contestant is a process that lives from its first step to the last round, so all are held in memory at once. Where the
machine has not enough for that (`Stage.apart`), a process lives for one round alone: it begins at that round's batch,
warms up by a step and is timed by the next, and then makes room. Its peak memory is its own either way. A step's
seconds are for a whole batch of examples, also where a peer packs another number of them into a step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.cell import BATCHES, Cell
from benchmarks.peers.pipe import Worker
from benchmarks.peers.settings import Setting
from benchmarks.peers.stage import Stage
from weft.errors import RunError

OURS = "weft"
COMPARED = 3
"""Steps whose losses are compared."""
GRADIENT_ERROR = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest relative error of our gradient that is still timed. bf16 weights of transformers itself stand at 1e-2."""

Step = dict[str, Any]
"""What a worker says of a step (worker.py)."""


@dataclass(frozen=True)
class Truth:
    """What is right: the losses of the first steps, and a file with the first step's gradient."""

    losses: tuple[float, ...]
    gradient: Path


def race(
    stage: Stage, cell: Cell, contestants: Mapping[str, Setting], rounds: int, truth: Truth
) -> dict[str, dict[str, Any]]:
    """Per contestant: median and all rounds, CPU time, peak memory, time to the first step, losses, errors.

    Raises RunError where a contestant fails, or our losses or gradient are not those of `truth`.
    """
    lanes = {name: _Lane(stage, cell, name, setting) for name, setting in contestants.items()}
    compiled = any(setting.compiled for setting in contestants.values())  # a compiler sees each batch once
    try:
        for lane in lanes.values():
            lane.begin()
            if stage.apart:
                lane.warm(COMPARED - 1)
                lane.leave()
        if not stage.apart:
            for _ in range(BATCHES if compiled else COMPARED - 1):
                for lane in lanes.values():
                    lane.warm()
        others = {name: str(lane.gradient) for name, lane in lanes.items() if lane.gradient}
        errors = stage.ask(do="compare", truth=str(truth.gradient), others=others)
        losses = {name: _loss_error(lanes[name].losses, truth.losses) for name in others}
        refuse(cell, errors[OURS], losses[OURS])
        for number in range(rounds):
            for lane in lanes.values():
                if stage.apart:
                    lane.enter(number % BATCHES)
                    lane.warm(BATCHES if compiled else 1)
                lane.time()
                if stage.apart:
                    lane.leave()
    finally:
        for lane in lanes.values():
            lane.leave()
    timed = {name: [for_batch(step, cell) for step in lane.timed] for name, lane in lanes.items()}
    cpu = {name: [for_batch(step, cell, "cpu_seconds") for step in lane.timed] for name, lane in lanes.items()}
    return {
        "seconds": {name: round(statistics.median(values), 4) for name, values in timed.items()},
        "rounds": {name: [round(value, 4) for value in values] for name, values in timed.items()},
        "cpu_seconds": {name: round(statistics.median(values), 4) for name, values in cpu.items()},
        "first_step_seconds": {name: round(lane.first_step, 2) for name, lane in lanes.items()},
        "peak_memory_bytes": {name: lane.peak for name, lane in lanes.items()},
        "losses": {name: [round(loss, 6) for loss in lane.losses] for name, lane in lanes.items()},
        "loss_error": losses,
        "gradient_error": errors,
    }


class _Lane:
    """One contestant's steps so far; between `enter` (or `begin`) and `leave` its process is there."""

    def __init__(self, stage: Stage, cell: Cell, name: str, setting: Setting) -> None:
        self._stage, self._cell, self._name, self._setting = stage, cell, name, setting
        self._worker: Worker | None = None
        self.first_step = 0.0
        self.peak = 0
        self.losses: list[float] = []
        """Of every step in order; those of `begin` and what follows it are at the first batches."""
        self.timed: list[Step] = []
        self.gradient: Path | None = None
        """Of the first step. A packed step holds other examples, so there it would be another."""
        if setting.batching != "packed":
            self.gradient = stage.folder / f"gradient-{name}.safetensors"

    def begin(self) -> None:
        """Enter at the first batch, and make the first step."""
        started = time.perf_counter()
        self.enter(0, self.gradient)
        self._step()
        self.first_step = time.perf_counter() - started

    def enter(self, batch: int, gradient: Path | None = None) -> None:
        """Start a process that is ready for this batch."""
        self._worker = self._stage.worker(self._name, self._cell.threads, self._setting)
        self._stage.prepare(self._worker, self._cell, self._setting, gradient, batch=batch)

    def warm(self, steps: int = 1) -> None:
        """Steps that are not timed."""
        for _ in range(steps):
            self._step()

    def time(self) -> None:
        """A step that is."""
        self.timed.append(self._step())

    def leave(self) -> None:
        """End the process, where there is one."""
        if self._worker:
            self._worker.close()
        self._worker = None

    def _step(self) -> Step:
        assert self._worker is not None
        step = self._worker.ask(do="step")
        self.peak = max(self.peak, step["peak_memory_bytes"])
        self.losses.append(step["loss"])
        return step


def for_batch(step: Mapping[str, Any], cell: Cell, clock: str = "seconds") -> float:
    """A step's time, for as many examples as the cell's batch has."""
    return step[clock] * cell.batch / step["examples"]


def _loss_error(found: list[float], expected: tuple[float, ...]) -> float:
    """Largest relative difference over the steps that both have."""
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=False))


def refuse(cell: Cell, gradient: Mapping[str, Any], loss: float) -> None:
    """Raise RunError where our gradient or losses are not the truth's: only equal work is timed."""
    limit, off = GRADIENT_ERROR[cell.precision], gradient["relative"]
    if not gradient["tensors"] or off is None:
        raise RunError(
            f"{cell}: no tensor of our gradient has a name of theirs ({gradient['missing']}); nothing timed."
        )
    if off > limit or loss > limit:
        raise RunError(
            f"{cell}: our gradient is off by {off:.1e}, our losses by {loss:.1e}; expected at most {limit:.0e}. "
            "Only equal work is timed."
        )
