"""One cell measured: settle what each peer is set to, compare losses and gradients, then time in turn, A B C A B C.

The truth that losses and gradients are compared with is the first peer in fp32 on the default route. Every contestant
is a process that lives from its first step to the last round; its peak memory is its own. A step's seconds are for a
whole batch of examples, also where a peer packs another number of them into a step.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import floor
from benchmarks.peers.cell import BATCHES, Cell, batch_of, examples
from benchmarks.peers.pipe import Worker
from benchmarks.peers.settings import Setting
from benchmarks.peers.tune import Attempt, Tuned, tune
from weft.errors import RunError, UsageError

OURS, THREADED = "weft", "weft-threads"
"""Ours as it is, and with several threads ours in one process, by which `train/crew.py` is measured."""
SLOW_SECONDS = 30.0
"""A try whose steps take longer is timed by one step instead of two."""
COMPARED = 3
"""Steps whose losses are compared."""
GRADIENT_ERROR = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest relative error of our gradient that is still timed. bf16 weights of transformers itself stand at 1e-2."""


def peers_of(cell: Cell) -> tuple[str, ...]:
    """The first gives the truth. transformers alone has no preference training."""
    return ("trl",) if cell.method == "dpo" else ("transformers", "trl")


@dataclass
class Stage:
    """What the processes of one benchmark share: a working folder, both interpreters, what `grounds` has made."""

    folder: Path
    peers_python: Path
    compiling: bool = True
    """Whether the peers are offered torch.compile."""
    _grounds: Worker | None = None
    _made: dict[str, Any] = field(default_factory=dict)
    _started: int = 0

    def ask(self, **command: Any) -> dict[str, Any]:
        """An answer of grounds.py."""
        self._grounds = self._grounds or self.worker("grounds", 1)
        return self._grounds.ask(**command)

    def once(self, **command: Any) -> dict[str, Any]:
        """The same, asked only the first time."""
        key = repr(sorted(command.items()))
        if key not in self._made:
            self._made[key] = self.ask(**command)
        return self._made[key]

    def peak(self, cell: Cell) -> float:
        """Floating-point operations per second of a large matrix product: the best seen so far in this run."""
        key = f"peak {cell.precision} {cell.threads}"
        now = self.ask(do="peak", precision=cell.precision, threads=cell.threads)["flops"]
        self._made[key] = max(now, self._made.get(key, 0.0))
        return self._made[key]

    def close(self) -> None:
        if self._grounds:
            self._grounds.close()

    def worker(self, kind: str, threads: int, setting: Setting | None = None) -> Worker:
        """A started process; weft's own interpreter for what needs weft."""
        self._started += 1
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "WEFT_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TMPDIR": str(self.folder),
            **(setting.environment if setting else {}),
        }
        python = str(self.peers_python) if kind in ("transformers", "trl") else sys.executable
        command = [python, "-m", "benchmarks.peers.worker", kind]
        return Worker(kind, command, environment, self.folder / f"{self._started}-{kind}.log")

    def prepare(self, worker: Worker, cell: Cell, setting: Setting, gradient: Path | None, limit: float | None) -> None:
        """Make a contestant ready for its first step."""
        base = self.folder / f"base-{cell.model}"
        self.once(do="folder", model=cell.model, folder=str(base))
        adapter = self.folder / f"adapter-{cell.model}-{cell.adapt}"
        if cell.adapt != "full":
            self.once(do="adapter", folder=str(base), adapter=str(adapter), adapt=cell.adapt)
        worker.ask(
            limit,
            do="prepare",
            cell=cell.to_json(),
            setting=setting.to_json(),
            folder=str(base),
            adapter=str(adapter),
            gradient=str(gradient) if gradient else None,
        )

    def versions(self) -> dict[str, str]:
        """Of what the peers run on. Raises UsageError where their environment is missing."""
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        names = ("trl", "transformers", "peft", "torch")
        try:
            done = subprocess.run([self.peers_python, "-c", code, *names], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise UsageError(
                "the peers' environment (.venv-peers) is missing or incomplete. Start with scripts/bench train, "
                "which makes it from benchmarks/peers/requirements.txt."
            ) from None
        return dict(zip(names, done.stdout.split(), strict=True))


@dataclass(frozen=True)
class Truth:
    """What is right: the losses of the first steps, and a file with the first step's gradient."""

    losses: tuple[float, ...]
    gradient: Path


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
    found = _race(stage, cell, contestants, rounds, truth)
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
    return Attempt(min(_for_batch(step, cell, clock) for step in timed), losses[:COMPARED], time.monotonic() - started)


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


def _race(
    stage: Stage, cell: Cell, contestants: Mapping[str, Setting], rounds: int, truth: Truth
) -> dict[str, dict[str, Any]]:
    """Per contestant: median and all rounds, CPU time, peak memory, time to the first step, losses, errors."""
    workers: dict[str, Worker] = {}
    gradients: dict[str, Path] = {}
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    first_step: dict[str, float] = {}
    try:
        for name, setting in contestants.items():
            workers[name] = stage.worker(name, cell.threads, setting)
            path = stage.folder / f"gradient-{name}.safetensors"
            # A packed step holds other examples, so its gradient is another.
            packed = setting.batching == "packed"
            stage.prepare(workers[name], cell, setting, None if packed else path, None)
            steps[name].append(workers[name].ask(do="step"))
            first_step[name] = time.perf_counter() - workers[name].started
            if not packed:
                gradients[name] = path
        others = {name: str(path) for name, path in gradients.items()}
        errors = stage.ask(do="compare", truth=str(truth.gradient), others=others)
        warm = BATCHES if any(setting.compiled for setting in contestants.values()) else COMPARED - 1
        for _ in range(warm):
            for name, worker in workers.items():
                steps[name].append(worker.ask(do="step"))
        losses = {name: [step["loss"] for step in done] for name, done in steps.items()}
        loss_error = {name: _loss_error(losses[name], truth.losses) for name in gradients}
        _refuse(cell, errors[OURS], loss_error[OURS])
        before = {name: len(done) for name, done in steps.items()}
        for _ in range(rounds):
            for name, worker in workers.items():
                steps[name].append(worker.ask(do="step"))
    finally:
        for worker in workers.values():
            worker.close()
    timed = {name: [_for_batch(step, cell) for step in done[before[name] :]] for name, done in steps.items()}
    cpu = {
        name: [_for_batch(step, cell, "cpu_seconds") for step in done[before[name] :]] for name, done in steps.items()
    }
    return {
        "seconds": {name: round(statistics.median(values), 4) for name, values in timed.items()},
        "rounds": {name: [round(value, 4) for value in values] for name, values in timed.items()},
        "cpu_seconds": {name: round(statistics.median(values), 4) for name, values in cpu.items()},
        "first_step_seconds": {name: round(value, 2) for name, value in first_step.items()},
        "peak_memory_bytes": {name: done[-1]["peak_memory_bytes"] for name, done in steps.items()},
        "losses": {name: [round(step["loss"], 6) for step in done] for name, done in steps.items()},
        "loss_error": loss_error,
        "gradient_error": errors,
    }


def _for_batch(step: Mapping[str, Any], cell: Cell, clock: str = "seconds") -> float:
    return step[clock] * cell.batch / step["examples"]


def _loss_error(found: list[float], expected: tuple[float, ...]) -> float:
    """Largest relative difference over the steps that both have."""
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=False))


def _refuse(cell: Cell, gradient: Mapping[str, Any], loss: float) -> None:
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


def _mean_flop(cell: Cell, *, shared: bool) -> float:
    made = examples(cell)
    return statistics.mean(floor.flop(cell, batch_of(made, cell, step), shared=shared) for step in range(BATCHES))
