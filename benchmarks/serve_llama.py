"""llama.cpp beside weft's engine: one request alone; several of the base, of one adapter, over eight adapters.

Same base, adapters, prompts, greedy tokens, threads and size of numbers (llama.cpp keeps keys and values as float16
where weft keeps bfloat16, which is its own choice); each contestant is a process, and they take turns. First both
answer in float32, and unless they say the same nothing is timed. llama.cpp applies an adapter to a context, not to a
row: it answers adapter after adapter, the rows of each together.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.serve_grounds import Worker, adapters, median, prompts, vocabulary
from weft.errors import RunError

PYTHON = Path(".venv-peers/bin/python")
START = 8
"""So many first tokens are compared."""
Answer = dict[str, Any]


def beside_llama(given: argparse.Namespace, model: str, base: Path, folder: Path) -> list[dict[str, Any]]:
    """A row per cell: tokens per second of both, their ratio, and which replies began alike in float32."""
    if reason := _missing():
        return [{"what": "llama.cpp", "model": model, "skipped": reason}]
    names = adapters(base, 8, given.rank, folder / f"adapters-{model}")
    same = _agreement(given, model, base, names, folder)
    cells = [(1, 0), (given.clients, 0), (given.clients, 1), (given.clients, min(8, given.clients))]
    rounds: dict[tuple[int, int], list[list[Answer]]] = {cell: [] for cell in cells}
    workers = _workers(given, model, given.precision, base, names, folder)
    try:
        for turn in range(given.rounds + 1):  # the first one warms up
            for cell in cells:
                work = _work(given, model, cell[0], cell[1], names, given.new)
                answers = [worker.ask(**work) for worker in workers]
                if turn:
                    rounds[cell].append(answers)
    finally:
        for worker in workers:
            worker.close()
    return [_row(given, model, cell, rounds[cell], same) for cell in cells]


def in_words(row: dict[str, Any]) -> str:
    """What a row of `beside_llama` says."""
    if "skipped" in row:
        return f"not measured: {row['skipped']}"
    adapters = {0: "the base alone", 1: "one adapter"}.get(row["adapters"], f"{row['adapters']} adapters")
    return (
        f"{row['clients']} requests, {adapters}: weft {row['weft']:.0f} tokens/s, llama.cpp {row['llama']:.0f}; "
        f"{row['ratio']:.2f} times ({row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}); in float32 "
        f"{100 * row['same_starts']:.0f} % begin with the same {START} tokens"
    )


def _row(
    given: argparse.Namespace, model: str, cell: tuple[int, int], rounds: list[list[Answer]], same: float
) -> dict[str, Any]:
    made, (ours, theirs) = cell[0] * given.new, zip(*rounds, strict=True)
    ratios, cpu = (
        sorted(b[kind] / a[kind] for a, b in zip(ours, theirs, strict=True)) for kind in ("seconds", "cpu_seconds")
    )
    return {
        "what": "llama.cpp", "model": model, "clients": cell[0], "adapters": cell[1], "same_starts": same,
        "weft": made / median([answer["seconds"] for answer in ours]),
        "llama": made / median([answer["seconds"] for answer in theirs]),
        "ratio": median(ratios), "ratios": ratios, "cpu_ratio": median(cpu),
    }  # fmt: skip


def _agreement(given: argparse.Namespace, model: str, base: Path, names: list[str], folder: Path) -> float:
    """The share of replies whose first tokens are the same in float32. Raises RunError where it is not most of them."""
    work = _work(given, model, given.clients, 8, names, START)
    workers = _workers(given, model, "float32", base, names, folder)
    try:
        ours, theirs = (worker.ask(**work)["ids"] for worker in workers)
    finally:
        for worker in workers:
            worker.close()
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    if same < 0.9:
        raise RunError(f"llama.cpp answers otherwise in float32: {100 * same:.0f} % of the replies begin as weft's do.")
    return same


def _workers(
    given: argparse.Namespace, model: str, dtype: str, base: Path, names: list[str], folder: Path
) -> list[Worker]:
    first = {"base": str(base), "dtype": dtype, "threads": given.threads, "adapters": names, "clients": given.clients}
    theirs = {"room": given.prompt + given.new, "files": str(folder / f"gguf-{model}")}
    ours = Worker(contestant="weft", **first)
    try:
        peer = Worker(
            python=str(PYTHON), module="benchmarks.serve_llama_worker", contestant="llama.cpp", **first, **theirs
        )
    except BaseException:
        ours.close()
        raise
    return [ours, peer]


def _work(
    given: argparse.Namespace, model: str, clients: int, count: int, names: list[str], new: int
) -> dict[str, Any]:
    chosen = [names[number % count] if count else None for number in range(clients)]
    asked = prompts(clients, given.prompt, vocabulary(model), 0)
    return {"do": "tokens", "prompts": asked, "adapters": chosen, "new": new}


def _missing() -> str:
    """Why the peer cannot be asked; empty where it can."""
    if not PYTHON.exists():
        return f"there is no {PYTHON}; scripts/bench serve --parts llama makes it"
    tried = subprocess.run([PYTHON, "-c", "import llama_cpp, gguf"], capture_output=True, text=True, check=False)
    said = tried.stderr.strip().splitlines()
    return f"its Python binding is not in .venv-peers ({said[-1]})" if tried.returncode and said else ""
