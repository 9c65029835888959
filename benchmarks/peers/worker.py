"""The contestant's side: `python -m benchmarks.peers.worker KIND`, commands on standard input, answers on the output.

    {"do": "prepare", cell, setting, folder, adapter, gradient, batch}   load everything, up to the first step → {}
    {"do": "step"}     one step, with all that the loop does from one step's end to the next → seconds, loss, memory

The clock runs from the command to the end of the step. `gradient`: a file for the gradient of the first step, which is
written after the clock has stopped. `batch`: the one that the first step takes. KIND `grounds` answers other questions
(grounds.py).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from benchmarks.peers.cell import Cell, examples
from benchmarks.peers.settings import Setting


class Finished(BaseException):
    """The benchmark asks for no further step. Not an Exception: a training loop must not catch it."""


class Gate:
    """Where a loop waits before each step, and reports after it."""

    def __init__(self, read: Callable[[], dict[str, Any] | None], write: Callable[[dict[str, Any]], None]) -> None:
        self._read, self._write = read, write
        self._started = self._cpu = 0.0

    def wait(self) -> None:
        """Returns when the next step may begin. Raises Finished when there is none."""
        if self._read() is None:
            raise Finished
        self._cpu, self._started = time.process_time(), time.perf_counter()

    def done(self, loss: float, examples: int, after: Callable[[], None] | None = None) -> None:
        """Report a step; `after` is run when the clock has stopped."""
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        peak = peak_memory_bytes()
        if after:
            after()
        self._write(
            {"seconds": seconds, "cpu_seconds": cpu, "loss": loss, "examples": examples, "peak_memory_bytes": peak}
        )


class Contestant(Protocol):
    """A training that is ready for its first step."""

    def run(self, gate: Gate) -> None: ...


def peak_memory_bytes() -> int:
    """Most memory that this process ever held."""
    try:
        # Not ru_maxrss: that begins with the peak of the process from which this one was forked.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bound_memory(share: float = 0.85) -> None:
    """Let a demand for more than this share of the memory that is free now fail, before the machine stands still.

    On Linux; elsewhere nothing is bound.
    """
    try:
        facts = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return
    free = int(facts.split("MemAvailable:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (int(share * free), resource.RLIM_INFINITY))


def prepared(kind: str, command: dict[str, Any]) -> Contestant:
    """The contestant of this kind, on the cell and with the setting of the command."""
    import torch

    cell, setting = Cell(**command["cell"]), Setting(**command["setting"])
    torch.set_num_threads(cell.threads)
    folder, adapter = Path(command["folder"]), Path(command["adapter"])
    gradient = Path(command["gradient"]) if command["gradient"] else None
    made = examples(cell, command["batch"])
    if kind in ("weft", "weft-threads"):
        from benchmarks.peers.ours import Ours

        return Ours(cell, made, folder, adapter, gradient, alone=kind == "weft-threads")
    from benchmarks.peers.trainers import Peer

    return Peer(kind, cell, made, setting, folder, adapter, gradient)


def main(kind: str) -> None:
    """Serve until standard input ends."""
    bound_memory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log

    def read() -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def write(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    def fail(error: Exception) -> NoReturn:
        text = (str(error).strip().splitlines() or [""])[0][:300]
        write({"error": f"{type(error).__name__}: {text}"})
        raise error

    try:
        while command := read():
            if kind == "grounds":
                from benchmarks.peers import grounds

                write(grounds.answer(command))
            else:
                contestant = prepared(kind, command)
                write({})
                contestant.run(Gate(read, write))
    except Finished:
        pass
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main(sys.argv[1])
