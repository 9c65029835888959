"""`weft run DATA`: the whole road."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.options import flags, gather
from weft.road.settings import RoadConfig


@click.command("run", short_help="The whole road, from examples to a verdict.")
@click.argument("data")
@click.option("--out", help="Run folder; default: runs/NAME-FINGERPRINT, so that the same command continues its run.")
@click.option("--config", "file", help="YAML file with settings; flags and WEFT_* variables go before it.")
@click.option("--resume", is_flag=True, help="Only go on with a run that has begun; where there is none, refuse.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on stdout.")
@flags(RoadConfig)
def command(data: str, out: str | None, file: str | None, resume: bool, as_json: bool, **values: Any) -> None:
    """Check DATA, split it, measure every arm, fine-tune, and give a verdict with its evidence.

    DATA is a file of examples (JSONL, JSON or CSV) or the folder of an unfinished run.
    """
    from weft.cli.terminal import TerminalProgress
    from weft.road.asked import examples_asked, require_room
    from weft.runs import SETTINGS

    told = gather(RoadConfig, values)
    if not (Path(data) / SETTINGS).is_file():
        # A file that is none, and a base that is too big, are refused before the libraries are imported.
        require_room(examples_asked(data, out, file, told, resume=resume))
    from weft.road.whole import whole

    with TerminalProgress() as progress:
        report = whole(data, out, file, told, progress, resume=resume)
    show(report, as_json)


def show(report: dict[str, Any], as_json: bool) -> None:
    """The report on stdout, for people or for programs."""
    if as_json:
        from weft.cli.terminal import print_json

        print_json(report)
        return
    from rich.console import Console

    from weft.evaluate.terminal import print_report

    print_report(report, Console())
