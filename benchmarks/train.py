"""Training steps: weft beside TRL and transformers with PEFT, each peer at the best of its settings, in one run.

Same base, initial adapter, examples, order, optimizer and clipping; first losses and gradients are compared, then the
contestants take turns (benchmarks/peers/race.py). Beside each figure stands the share of the physical floor: the least
arithmetic of the step at the matrix speed that was measured in the same run.

    scripts/bench train --models S --precision fp32,bf16 --prefix 0,256,600 --json train.json --docs
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import machine, page
from benchmarks.peers.cell import SHAPES, TARGETS, Cell
from benchmarks.peers.match import measured
from benchmarks.peers.race import OURS
from benchmarks.peers.stage import Stage
from benchmarks.peers.tune import Tuned
from weft import __version__
from weft.errors import RunError, UsageError, WeftError
from weft.runs import write_whole

PEERS_PYTHON = Path(".venv-peers/bin/python")
CURVES: dict[str, tuple[Any, ...]] = {
    "prefix": (0, 64, 256, 600, 1200, 2400),
    "batch": (1, 4, 16, 64),
    "stretch": (1, 2, 4, 8),
    "model": ("S", "M"),
}
"""Per field of a cell the values of its curve; all other fields stay at those of the first cell asked for."""
KEY = ("model", "precision", "prefix", "adapt", "batch", "method", "threads", "stretch", "curve")
"""What makes two rows the same measurement."""


def cells(given: argparse.Namespace) -> list[tuple[Cell, str]]:
    """What to measure, in order, each with the name of its curve (empty for the table)."""
    table = [
        Cell(model, precision, prefix, adapt, given.batch, given.method, given.threads)
        for model in given.models
        for precision in given.precision
        for adapt in given.adapt
        for prefix in given.prefix
    ]
    if not given.curves:
        return [(cell, "") for cell in table]
    return [(replace(table[0], **{name: value}), name) for name in given.curves for value in CURVES[name]]


def bench(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure what was asked for; tell and write the rows after each; returns those that were measured now."""
    rows, done = _earlier(given.add), []
    stage = Stage(folder, PEERS_PYTHON.absolute(), not given.without_compile, given.apart)
    about = {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "weft": __version__,
        "command": command(given),
        "machine": machine.in_words(machine.describe() | {"threads_asked_for": str(given.threads)}),
        "versions": stage.versions(),
    }
    known = _Known()
    try:
        for cell, curve in cells(given):
            print(f"== {cell}", file=sys.stderr)
            try:
                row = _row(stage, cell, given, known)
            except RunError as error:
                row = {**cell.to_json(), "failed": str(error)}
                print(f"   {error}", file=sys.stderr)
            row = {**row, **about, "curve": curve}
            done.append(row)
            rows = [old for old in rows if _key(old) != _key(row)] + [row]
            if given.json:
                write_whole(given.json, (json.dumps({"rows": rows}, ensure_ascii=False, indent=1) + "\n").encode())
    finally:
        stage.close()
    print(summary(done))
    if given.docs:
        page.update("train", section(rows))
    return done


@dataclass
class _Known:
    """What this run has found: settings per family of cells, and the rows of a curve's cells."""

    tuned: dict[tuple[str, ...], dict[str, Tuned]] = field(default_factory=dict)
    rows: dict[Cell, dict[str, Any]] = field(default_factory=dict)


def _row(stage: Stage, cell: Cell, given: argparse.Namespace, known: _Known) -> dict[str, Any]:
    """A cell's row. Settings found before are used by wish, and along a curve, where only the best peer runs."""
    family = (cell.model, cell.precision, cell.adapt, cell.method)
    if given.curves:
        centre = Cell(cell.model, cell.precision, given.prefix[0], cell.adapt, given.batch, cell.method, cell.threads)
        if family not in known.tuned:
            row, tuned = measured(stage, centre, given.rounds)
            known.tuned[family] = {row["best_peer"]: tuned[row["best_peer"]]}
            known.rows[centre] = row
        if cell not in known.rows:
            known.rows[cell], _ = measured(stage, cell, given.rounds, known.tuned[family])
        return known.rows[cell]
    row, tuned = measured(stage, cell, given.rounds, known.tuned.get(family) if given.tune == "once" else None)
    known.tuned.setdefault(family, tuned)
    return row


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown tables: the cells, then the curves."""
    table = [row for row in rows if not row["curve"]]
    header = ["model", "numbers", "prefix", "adapt", "batch", "method", "weft, s/step", "share of floor", "best peer"]
    header += ["s/step", "ratio (range)", "other peers", "peak memory", "gradient error"]
    parts = [page.table(header, [_cells(row) for row in table])] if table else []
    for curve in CURVES:
        along = [row for row in rows if row["curve"] == curve and "failed" not in row]
        if along:
            words = [curve, "weft, ms/example", "share of floor", "best peer, ms/example", "ratio"]
            parts.append(page.table(words, [_point(row, curve) for row in along]))
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    start = [str(row[name]) for name in KEY[:6]]
    if "failed" in row:
        return [*start, "failed", *[""] * 6, str(row["failed"])]
    best, seconds = row["best_peer"], row["seconds"]
    others = [f"{name} ({row['settings'][name]}) {seconds[name]:.3f}" for name in row["settings"] if name != best]
    memory = row["peak_memory_bytes"]
    return [
        *start,
        f"{seconds[OURS]:.3f}",
        f"{100 * row['floor_share']:.0f} %",
        f"{best} ({row['settings'][best]})",
        f"{seconds[best]:.3f}",
        f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
        "; ".join(others),
        f"{memory[OURS] / 2**20:,.0f} / {memory[best] / 2**20:,.0f} MiB",
        f"{row['gradient_error'][OURS]['relative']:.0e}",
    ]


def _point(row: Mapping[str, Any], curve: str) -> list[str]:
    each = {name: 1000 * value / row["batch"] for name, value in row["seconds"].items()}
    return [
        str(row[curve]),
        f"{each[OURS]:.1f}",
        f"{100 * row['floor_share']:.0f} %",
        f"{each[row['best_peer']]:.1f}",
        f"{row['ratio']:.2f}",
    ]


def section(rows: Sequence[Mapping[str, Any]]) -> str:
    """The part of docs/benchmarks.md: dated tables for each date, command and machine among the rows."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["measured"], row["command"], row["machine"]), []).append(row)
    parts = []
    for (day, words, about), group in groups.items():
        versions = ", ".join(f"{name} {version}" for name, version in group[0]["versions"].items())
        parts += [f"### {day}, weft {group[0]['weft']}", f"`{words}`", f"{about} Peers: {versions}.", summary(group)]
    return "\n\n".join(parts)


def _earlier(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            _key(row)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a file of this benchmark's rows ({error}). Name another with --add.") from None
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def command(given: argparse.Namespace) -> str:
    """What to type for these rows; names no file."""
    words = ["scripts/bench train", f"--models {','.join(given.models)}", f"--precision {','.join(given.precision)}"]
    words += [f"--prefix {','.join(map(str, given.prefix))}", f"--adapt {','.join(given.adapt)}"]
    words += [f"--batch {given.batch}", f"--rounds {given.rounds}", f"--threads {given.threads}"]
    words += [f"--method {given.method}", f"--tune {given.tune}" if given.tune != "cell" else ""]
    words += ["--without-compile" if given.without_compile else "", "--apart" if given.apart else ""]
    every = tuple(given.curves) == tuple(CURVES)
    words += ["--curves" if every else f"--curves {','.join(given.curves)}" if given.curves else ""]
    return " ".join(word for word in words if word)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 and a word where a value is impossible."""
    parser = argparse.ArgumentParser(prog="scripts/bench train", description="Training steps beside TRL and Trainer.")
    parser.add_argument("--models", default="S,M", help="shapes (default: %(default)s)")
    parser.add_argument("--precision", default="fp32,bf16", help="default: %(default)s")
    parser.add_argument("--prefix", default="0,256,600", help="tokens that all examples share (default: %(default)s)")
    parser.add_argument("--adapt", default="qv,all-linear,full", help="what is trained (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="examples, or pairs, per step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contestant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each contestant (default: %(default)s)")
    parser.add_argument("--method", choices=("sft", "dpo"), default="sft", help="default: %(default)s")
    parser.add_argument(
        "--tune", choices=("cell", "once"), default="cell", help="look for the peers' best settings in every cell, or "
        "once per model, precision, adapt and method (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--without-compile", action="store_true", help="do not offer torch.compile: minutes per cell")
    parser.add_argument(
        "--apart", action="store_true", help="hold one contestant in memory at a time: slower, for shapes of which the "
        "machine cannot hold all",
    )  # fmt: skip
    parser.add_argument(
        "--curves", nargs="?", const=",".join(CURVES), help="cost per example against prefix, batch, stretch and model "
        "(or some of them), from the first cell on, with the best peer alone",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, after each cell")
    parser.add_argument("--add", type=Path, metavar="FILE", help="keep the rows of other cells that FILE has")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    known = {"models": tuple(SHAPES), "precision": ("fp32", "bf16"), "adapt": tuple(TARGETS), "curves": tuple(CURVES)}
    if given.curves is None:
        given.curves = known.pop("curves")[:0]
    for name, values in known.items():
        chosen = getattr(given, name).split(",")
        strange = [value for value in chosen if value not in values]
        if strange:
            parser.error(f"--{name} {', '.join(strange)}: expected some of {','.join(values)}")
        setattr(given, name, chosen)
    if not all(part.isdigit() for part in given.prefix.split(",")):
        parser.error(f"--prefix {given.prefix}: expected numbers of tokens, as 0,256,600")
    given.prefix = [int(part) for part in given.prefix.split(",")]
    for name in ("batch", "rounds", "threads"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)}: expected 1 or more")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `scripts/bench train`; exit code 3 where a cell failed."""
    given = parsed(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
            done = bench(given, Path(folder))
    except WeftError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(3 if any("failed" in row for row in done) else 0)


if __name__ == "__main__":
    main()
