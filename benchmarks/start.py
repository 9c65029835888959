"""From the command to the first step of a training: weft beside the shortest program with TRL and PEFT.

Each round starts a fresh process of every contestant, in turns, on the tickets example with the embedded base, and ends
it at its first step: weft's when `metrics.jsonl` has a loss, the peer's when it says so. weft reads, checks and splits
the data and plans its memory in that time; the peer tokenises it. `imports` is the floor under anything that uses these
libraries: an interpreter that imports torch and transformers' tokenizer.

    scripts/bench start --json start.json --docs
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, page
from benchmarks.road import EXAMPLES
from weft.errors import RunError, WeftError
from weft.models.load import NANO, locate
from weft.runs import write_whole

DATA = EXAMPLES["tickets"]
PEERS = Path(".venv-peers/bin/python")
FEWEST_ROUNDS = 3
_IMPORTS = "import torch; from transformers import PreTrainedTokenizerFast"
_LOOK = 0.005
"""Seconds between two looks at a file."""
_MOST = 120.0
"""Seconds after which a contestant counts as stuck."""


def weft_seconds(folder: Path) -> float:
    """From the start of `weft train` to the first loss in its run folder, which must not exist yet."""
    metrics = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "weft", "train", str(DATA), "--out", str(folder)]
    return _until(command, lambda _: metrics.exists() and b'"loss"' in metrics.read_bytes())


def peer_seconds(_: Path) -> float:
    """The same for the peer's program."""
    command = [str(PEERS), "-m", "benchmarks.peers.first_step", str(DATA), str(locate(NANO))]
    return _until(command, lambda process: process.poll() == 0)


def import_seconds(_: Path) -> float:
    """An interpreter that imports the libraries and ends."""
    return _until([sys.executable, "-c", _IMPORTS], lambda process: process.poll() == 0)


CONTESTANTS: dict[str, Callable[[Path], float]] = {
    "weft": weft_seconds, "trl": peer_seconds, "imports": import_seconds,
}  # fmt: skip


def _until(command: Sequence[str], there: Callable[[subprocess.Popen[bytes]], bool]) -> float:
    """Seconds until `there`; the process is ended then. Raises RunError where it ends or is stuck before."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process:
            try:
                while True:
                    ended = process.poll() is not None  # first: it may end between two looks
                    if there(process):
                        return time.perf_counter() - started
                    if ended or time.perf_counter() - started > _MOST:
                        said.seek(0)
                        end = said.read().decode(errors="replace")[-2000:]
                        raise RunError(f"{' '.join(command[1:4])}: no first step.\n{end}")
                    time.sleep(_LOOK)
            finally:
                process.kill()


def measured(rounds: int) -> list[dict[str, Any]]:
    """A row for each contestant; the first round warms the page cache and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds + 1):
        for name, run in CONTESTANTS.items():
            with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
                took = run(Path(folder) / "run")
            print(f"round {number}: {name} {took:.2f} s{'' if number else ' (not counted)'}", file=sys.stderr)
            if number:
                seconds[name].append(took)
    ours = statistics.median(seconds["weft"])
    return [
        {
            "name": name,
            "seconds": [round(value, 3) for value in times],
            "median_seconds": round(statistics.median(times), 3),
            "ratio": round(statistics.median(times) / ours, 2),
        }
        for name, times in seconds.items()
    ]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    cells = [
        [
            row["name"],
            f"{row['median_seconds']:.2f}",
            f"{min(row['seconds']):.2f} to {max(row['seconds']):.2f}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    return page.table(["contestant", "seconds", "range", "times weft's time"], cells)


def section(result: dict[str, Any]) -> str:
    """The part of docs/benchmarks.md."""
    about = f"Medians of {result['rounds']} rounds, after one that is not counted."
    title = f"### {result['measured']}"
    return "\n\n".join(
        [title, f"`{result['command']}`", machine.in_words(result["machine"]), about, summary(result["rows"])]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `scripts/bench start`."""
    parser = argparse.ArgumentParser(prog="scripts/bench start", description="From the command to the first step.")
    parser.add_argument("--rounds", type=int, default=5, help=f"at least {FEWEST_ROUNDS} (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    if given.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds {given.rounds}: fewer than {FEWEST_ROUNDS} say too little")
    about = machine.describe()
    try:
        result = {
            "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": f"scripts/bench start --rounds {given.rounds}",
            "machine": about,
            "rounds": given.rounds,
            "rows": measured(given.rounds),
        }
        print(summary(result["rows"]))
        if given.json:
            write_whole(given.json, (json.dumps(result, indent=1) + "\n").encode())
        if given.docs:
            page.update("start", section(result))
    except WeftError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
