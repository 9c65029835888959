"""Where the time of weft's training step goes: torch.profiler on the contestant of `scripts/bench train`.

Each operation's own time, without what it calls. Beside it the share of the physical floor, so that it can be read how
much of the step is arithmetic that no code can leave out. The profiler itself takes time, mostly from short operations.

    scripts/bench profile --models S --precision bf16 fp32 --json profile.json --docs
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, page
from benchmarks.peers import floor, grounds
from benchmarks.peers.cell import BATCHES, SHAPES, TARGETS, Cell, batch_of, examples
from benchmarks.peers.ours import Ours
from benchmarks.peers.worker import Finished, Gate
from weft import __version__
from weft.errors import WeftError
from weft.runs import write_whole

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear", "mkldnn::_linear_pointwise"),
    "batched products of attention": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    "copies and changes of format": ("aten::copy_", "aten::cat", "aten::clone"),
    "gathering and scattering rows": (
        "aten::index_select", "aten::index_copy_", "aten::index_add_", "aten::index", "aten::_index_put_impl_",
        "aten::embedding",
    ),
}  # fmt: skip
"""Kinds of work, by the operations whose own time they are."""
REST = "all else, short operations"
WARM = 3


def profiled(cell: Cell, folder: Path) -> dict[str, Any]:
    """A cell's row: shares of a step's time by kind (sum 1), its seconds unprofiled, and the floor's share of them."""
    base, adapter = folder / f"base-{cell.model}", folder / f"adapter-{cell.model}-{cell.adapt}"
    grounds.write_folder(cell.model, base)
    if cell.adapt != "full":
        grounds.write_adapter(base, adapter, cell.adapt)
    watch = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    asked, seconds = 0, []

    def command() -> dict[str, Any] | None:
        nonlocal asked
        asked += 1
        if asked == WARM + BATCHES + 1:
            watch.start()
        if asked <= WARM + 2 * BATCHES:
            return {}
        watch.stop()
        return None

    # One process: a profiler does not see into forks.
    contestant = Ours(cell, examples(cell), base, adapter, None, alone=True)
    with contextlib.suppress(Finished):
        contestant.run(Gate(command, lambda done: seconds.append(done["seconds"])))
    own = Counter({event.key: event.self_cpu_time_total for event in watch.key_averages()})
    whole, step = own.total(), statistics.median(seconds[WARM : WARM + BATCHES])
    kinds = {kind: sum(own[name] for name in names) / whole for kind, names in KINDS.items()}
    arithmetic = statistics.mean(
        floor.flop(cell, batch_of(examples(cell), cell, n), shared=True) for n in range(BATCHES)
    )
    return {
        **cell.to_json(),
        "seconds": round(step, 4),
        "shares": {name: round(share, 4) for name, share in {**kinds, REST: 1 - sum(kinds.values())}.items()},
        "operations": sum(event.count for event in watch.key_averages()) // BATCHES,
        "floor_share": round(arithmetic / grounds.peak(cell.precision, cell.threads) / step, 4),
    }


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, kinds of work downwards."""
    header = ["", *(str(Cell(**{key: row[key] for key in Cell.__dataclass_fields__})) for row in rows)]
    lines = [[kind, *(f"{100 * row['shares'][kind]:.0f} %" for row in rows)] for kind in (*KINDS, REST)]
    lines.append(["operations in a step", *(f"{row['operations']:,}" for row in rows)])
    lines.append(["share of the floor", *(f"{100 * row['floor_share']:.0f} %" for row in rows)])
    lines.append(["seconds of a step, not profiled", *(f"{row['seconds']:.3f}" for row in rows)])
    return page.table(header, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `scripts/bench profile`."""
    parser = argparse.ArgumentParser(prog="scripts/bench profile", description="Where a training step's time goes.")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["S"], help="default: S")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["bf16", "fp32"])
    parser.add_argument("--prefix", type=int, default=256, help="tokens that all examples share (default: %(default)s)")
    parser.add_argument("--adapt", choices=TARGETS, default="qv", help="what is trained (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="examples, or pairs, per step (default: %(default)s)")
    parser.add_argument("--method", choices=("sft", "dpo"), default="sft", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    if given.batch < 1 or given.prefix < 0:
        parser.error(f"--batch {given.batch} --prefix {given.prefix}: expected at least 1 example and 0 tokens")
    torch.set_num_threads(1)
    about = machine.in_words(machine.describe() | {"threads_asked_for": "1"})
    words = f"--models {' '.join(given.models)} --precision {' '.join(given.precision)} --prefix {given.prefix}"
    words += f" --adapt {given.adapt} --batch {given.batch} --method {given.method}"
    try:
        with tempfile.TemporaryDirectory(prefix="weft-profile-") as folder:
            rows = [
                profiled(Cell(model, numbers, given.prefix, given.adapt, given.batch, given.method), Path(folder))
                for model in given.models
                for numbers in given.precision
            ]
        print(summary(rows))
        if given.json:
            write_whole(given.json, (json.dumps({"rows": rows, "machine": about}, indent=1) + "\n").encode())
        if given.docs:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            head = f"### {today}, weft {__version__}\n\n`scripts/bench profile {words}`\n\n{about}"
            page.update("profile", f"{head}\n\n{summary(rows)}")
    except WeftError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
