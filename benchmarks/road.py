"""The whole command on real data: `weft run` as a process of its own, its time, memory, verdict and arms.

Every figure of quality comes from the run's own report.json; seconds and memory are those of the process, from its
start to its end, as the operating system counts them. Nothing is repeated or averaged: a row is one run.

    scripts/bench road --json road.json --docs
    scripts/bench road --only intents --seed 1 -- --epochs 2     what follows -- goes to `weft run`
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import datasets, machine, page
from weft import __version__
from weft.errors import UsageError, WeftError
from weft.runs import write_whole

EXAMPLES = {"tickets": Path("examples/tickets/tickets.jsonl"), "intents": Path("examples/intents/intents.csv")}
NAMES = (*EXAMPLES, *datasets.CONVERTERS)
ARMS = ("zero-shot", "prompted", "few-shot", "classical", "tuned")
_LAST_LINES = 20


@dataclass(frozen=True)
class Case:
    """What one run is given, and what was done to its data before."""

    name: str
    path: Path
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What a process used, and how it ended (`last`: the end of what it said)."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    last: str


def case(name: str, data: Path, into: Path) -> Case:
    """The run called `name`; converts its data into the folder `into` where that is needed."""
    if name in EXAMPLES:
        return Case(name, EXAMPLES[name])
    made = datasets.convert(name, data, into)
    return Case(name, made.path, made.arguments, made.notes)


def spend(command: Sequence[str]) -> Spent:
    """Run a command, pass its messages on, and count what it and its children used."""
    started = time.perf_counter()
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            last.append(line.rstrip())
        # wait4 counts this child alone; RUSAGE_CHILDREN would keep the largest of all runs so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Spent(
        exit_code=process.returncode,
        seconds=round(time.perf_counter() - started, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_memory_bytes=usage.ru_maxrss * unit,
        last="\n".join(last),
    )


def measured(this: Case, folder: Path, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """One row: the run's cost and, where it succeeded, what its report says."""
    weft = [sys.executable, "-m", "weft", "run", str(this.path), *this.arguments]
    spent = spend([*weft, "--out", str(folder), "--seed", str(seed), *extra])
    row: dict[str, Any] = {
        "name": this.name,
        "seconds": spent.seconds,
        "cpu_seconds": spent.cpu_seconds,
        "peak_memory_bytes": spent.peak_memory_bytes,
        "exit_code": spent.exit_code,
        "notes": list(this.notes),
    }
    if spent.exit_code != 0:
        return row | {"failed": spent.last}
    return row | from_report(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def from_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a row takes from report.json: sizes, verdict, each arm's main metric and format, tuned minus classical."""
    metric = report["task"]["metric"]
    arms = {
        arm["name"]: {
            "n": arm["n"],
            **arm["metrics"][metric],
            "format_consistency": arm["metrics"].get("format_consistency"),
            "tokens_per_request": arm["tokens_per_request"],
            "seconds_per_request": arm["seconds_per_request"],
        }
        for arm in report["arms"]
    }
    training = report["training"]
    return {
        "rows": report["data"]["rows"],
        **{part: report["data"][part] for part in ("train", "validation", "test")},
        "findings": len(report["data"]["findings"]),
        "base": report["base"],
        "base_sha256": report["base_details"]["fingerprint"],
        "metric": metric,
        "verdict": report["verdict"]["choice"],
        "reason": report["verdict"]["reason"],
        "arms": arms,
        "tuned_minus_classical": _difference(report["comparisons"], "tuned", "classical"),
        "training": training and {k: training[k] for k in ("steps", "best_step", "stopped_because", "seconds")},
    }


def _difference(comparisons: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, Any] | None:
    """`first` minus `second` with interval and p (corrected, where the report corrected it), or None."""
    for found in comparisons:
        if sorted(found["arms"]) == sorted((first, second)):
            sign = 1 if found["arms"][0] == first else -1
            ends = sorted((sign * found["low"], sign * found["high"]))
            p = found.get("p_adjusted", found["p"])
            return {"difference": sign * found["difference"], "low": ends[0], "high": ends[1], "p": p, "n": found["n"]}
    return None


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table; shares in percent with their 95 % intervals."""
    header = ["data", "rows", "time", "CPU time", "peak memory", "verdict", "metric", *ARMS, "format of tuned"]
    return page.table([*header, "tuned - classical"], [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    cost = [_time(row["seconds"]), _time(row["cpu_seconds"]), f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"]
    if "failed" in row:
        return [row["name"], "", *cost, f"failed (exit {row['exit_code']})", *[""] * (len(ARMS) + 3)]
    arms = row["arms"]
    shares = [_share(arms.get(name)) for name in ARMS]
    form = _share((arms.get("tuned") or {}).get("format_consistency"))
    gap = row["tuned_minus_classical"]
    difference = (
        f"{100 * gap['difference']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}), p {_p(gap['p'])}"
        if gap
        else ""
    )
    return [row["name"], f"{row['rows']:,}", *cost, row["verdict"], row["metric"], *shares, form, difference]


def _time(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _share(interval: Mapping[str, float] | None) -> str:
    if not interval:
        return ""
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def section(results: Sequence[Mapping[str, Any]]) -> str:
    """The part of docs/benchmarks.md: one dated table for each date, command and machine among the results."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["measured"], row["command"], row["machine"]), []).append(row)
    parts = []
    for (day, command, words), rows in groups.items():
        title = f"### {day}, weft {rows[0]['weft']}"
        parts += [title, f"`{command}`", words, summary(rows)]
        parts += [_noted(row) for row in rows if row["notes"]]
    return "\n\n".join(parts)


def _command(seed: int, extra: Sequence[str]) -> str:
    """What to type for these rows. Without --only: rows of one command and of one each are the same measurement."""
    plain = [Path(word).name if Path(word).is_absolute() else word for word in extra]
    return shlex.join(["scripts/bench", "road", "--seed", str(seed), *(["--", *plain] if plain else [])])


def _noted(row: Mapping[str, Any]) -> str:
    return f"{row['name']}: " + "; ".join(row["notes"]) + "."


def _environment() -> dict[str, str]:
    """This process's environment without settings of weft, which would change the run in silence; offline."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WEFT_")}
    return {**kept, "WEFT_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench road", description="The whole command on real data.")
    parser.add_argument("--only", choices=NAMES, action="append", help="this run alone (may be given several times)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every run (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=datasets.DATA, help="folder of public data (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep run folders and converted data here; must be new or empty")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each run")
    parser.add_argument("--add", action="store_true", help="keep rows of other names that FILE of --json already has")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("extra", nargs="*", metavar="-- flag ...", help="further flags for every `weft run`")
    return parser.parse_args(arguments)


def _earlier(given: argparse.Namespace) -> list[dict[str, Any]]:
    if not given.add:
        return []
    if given.json is None:
        raise UsageError("--add keeps the rows of a file: name it with --json FILE.")
    if not given.json.exists():
        return []
    try:
        return json.loads(given.json.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{given.json}: not a file of rows ({error}). Name another with --json.") from None


def bench(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run what was asked for, tell and write the rows; returns those that were measured now."""
    names = [name for name in NAMES if not given.only or name in given.only]
    cases = [case(name, given.data, folder / "data") for name in names]
    rows = _earlier(given)
    about = {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "weft": __version__,
        "command": _command(given.seed, given.extra),
        "machine": machine.in_words(machine.describe()),
    }
    done = []
    for this in cases:
        print(f"== {this.name}", file=sys.stderr)
        row = {**measured(this, folder / "runs" / this.name, given.seed, given.extra), **about, "seed": given.seed}
        done.append(row)
        rows = sorted([*(old for old in rows if old["name"] != row["name"]), row], key=lambda r: NAMES.index(r["name"]))
        if given.json:
            write_whole(given.json, (json.dumps({"rows": rows}, ensure_ascii=False, indent=1) + "\n").encode())
    print(summary(done))
    if given.docs:
        page.update("road", section(rows))
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `scripts/bench road`; exit code 3 where a run failed."""
    given = _given(arguments)
    try:
        if given.keep:
            if given.keep.exists() and any(given.keep.iterdir()):
                raise UsageError(f"{given.keep}: not empty; a finished run would be shown, not measured. Name another.")
            done = bench(given, given.keep)
        else:
            with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
                done = bench(given, Path(folder))
    except WeftError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(3 if any("failed" in row for row in done) else 0)


if __name__ == "__main__":
    main()
