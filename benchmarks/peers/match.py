"""One cell measured: settle what each peer is set to (tune.py), then let all run in turn (race.py).

The truth that losses and gradients are compared with is the first peer in fp32 on the default route.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers import floor
from benchmarks.peers.cell import BATCHES, Cell, batch_of, examples
from benchmarks.peers.race import COMPARED, OURS, Truth, for_batch, race
from benchmarks.peers.settings import Setting
from benchmarks.peers.stage import Stage
from benchmarks.peers.tune import Attempt, Tuned, tune

THREADED = "weft-threads"
"""With several threads ours in one process beside ours as it is, by which `train/crew.py` is measured."""
SLOW_SECONDS = 30.0
"""A try whose steps take longer is timed by one step instead of two."""


def peers_of(cell: Cell) -> tuple[str, ...]:
    """The first gives the truth. transformers alone has no preference training."""
    return ("trl",) if cell.method == "dpo" else ("transformers", "trl")


def measured(
    stage: Stage, cell: Cell, rounds: int, known: Mapping[str, Tuned] | None = None
) -> tuple[dict[str, Any], dict[str, Tuned]]:
    """The cell's row, and what each peer was set to. `known`: settings found before, for these peers alone.

    Raises RunError where a contestant fails, or our losses or gradient are wrong: then nothing is timed.
    """
    truth_file = stage.folder / "truth.safetensors"
    truth_file.unlink(missing_ok=True)
    truth_peer = peers_of(cell)[0]
    first = attempt(stage, truth_peer, cell, Setting(), None, truth_file)
    truth = Truth(first.losses, truth_file)
    tuned = dict(known) if known else _tuned(stage, cell, truth_peer, first)
    ours_too = {THREADED: Setting()} if cell.threads > 1 and cell.adapt != "full" else {}
    contestants = {OURS: Setting(), **{peer: found.setting for peer, found in tuned.items()}, **ours_too}
    sample = batch_of(examples(cell), cell, 0)
    flop = {shared: _mean_flop(cell, shared=shared) for shared in (True, False)}
    peak = stage.peak(cell)
    found = race(stage, cell, contestants, rounds, truth)
    ours, theirs = found["seconds"][OURS], {peer: found["seconds"][peer] for peer in tuned}
    best = min(theirs, key=lambda peer: theirs[peer])
    rivals = [found["rounds"][best], found["rounds"][OURS]]
    row = {
        **cell.to_json(),
        **found,
        "best_peer": best,
        "ratio": round(theirs[best] / ours, 3),
        "ratios": [round(theirs_ / ours_, 3) for theirs_, ours_ in zip(*rivals, strict=True)],
        "cpu_ratio": round(found["cpu_seconds"][best] / found["cpu_seconds"][OURS], 3),
        "settings": {
            name: "one process" if name == THREADED else str(setting)
            for name, setting in contestants.items()
            if name != OURS
        },
        "tried": {peer: one.tried for peer, one in tuned.items()},
        "truth": {"contestant": f"{truth_peer}, {Setting()}", "losses": list(truth.losses)},
        "flop": flop[True],
        "flop_unshared": flop[False],
        "peak_flops": peak,
        "floor_seconds": round(flop[True] / peak, 5),
        "floor_share": round(flop[True] / peak / ours, 4),
        "examples_per_second": {name: round(cell.batch / value, 2) for name, value in found["seconds"].items()},
        "tokens_per_batch": sum(len(ids) for example in sample for ids, _ in example.rows),
        "learned_tokens_per_batch": sum(len(ids) - begin for example in sample for ids, begin in example.rows),
    }
    return row, tuned


def attempt(
    stage: Stage, peer: str, cell: Cell, setting: Setting, limit: float | None, gradient: Path | None = None
) -> Attempt:
    """A process of its own with this setting: one step to warm up (a compiler sees each batch), then one or two."""
    started = time.monotonic()

    def left() -> float | None:
        return None if limit is None else max(0.0, limit - (time.monotonic() - started))

    with stage.worker(peer, cell.threads, setting) as worker:
        stage.prepare(worker, cell, setting, gradient, left())
        steps = [worker.ask(left(), do="step") for _ in range(BATCHES if setting.compiled else 1)]
        timed = [worker.ask(left(), do="step")]
        if timed[0]["seconds"] < SLOW_SECONDS or gradient:
            timed.append(worker.ask(left(), do="step"))
    losses = tuple(step["loss"] for step in [*steps, *timed])
    # One thread's CPU time tells settings apart even while other work runs.
    clock = "cpu_seconds" if cell.threads == 1 else "seconds"
    return Attempt(min(for_batch(step, cell, clock) for step in timed), losses[:COMPARED], time.monotonic() - started)


def _tuned(stage: Stage, cell: Cell, truth_peer: str, first: Attempt) -> dict[str, Tuned]:
    tuned = {}
    for peer in peers_of(cell):

        def run(setting: Setting, limit: float, peer: str = peer) -> Attempt:
            if peer == truth_peer and setting == Setting():
                return first
            print(f"   {peer}: {setting}", file=sys.stderr)
            return attempt(stage, peer, cell, setting, limit)

        tuned[peer] = tune(peer, cell, run, first.losses[0], compiling=stage.compiling)
    return tuned


def _mean_flop(cell: Cell, *, shared: bool) -> float:
    made = examples(cell)
    return statistics.mean(floor.flop(cell, batch_of(made, cell, step), shared=shared) for step in range(BATCHES))
