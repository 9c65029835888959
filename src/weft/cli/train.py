"""`weft train DATA`: one training run, without measuring arms."""

from __future__ import annotations

from typing import Any

import click

from weft.cli.options import flags, gather
from weft.road.settings import RoadConfig


@click.command("train", short_help="One training run on a file of examples.")
@click.argument("data")
@click.option("--out", help="Run folder; default: runs/NAME-FINGERPRINT, so that the same command continues its run.")
@click.option("--config", "file", help="YAML file with settings; flags and WEFT_* variables go before it.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of the training as one JSON object on stdout.")
@flags(RoadConfig)
def command(data: str, out: str | None, file: str | None, as_json: bool, **values: Any) -> None:
    """Fine-tune the base on DATA's training part and publish the adapter. `weft eval RUN` measures it."""
    from weft.cli.terminal import TerminalProgress, print_json
    from weft.road.whole import train_only

    with TerminalProgress() as progress:
        run, record = train_only(data, out, file, gather(RoadConfig, values), progress)
    published = run.path(record["result"])
    if as_json:
        print_json({"run": str(run.folder), "adapter": str(published), "training": record})
        return
    click.echo(
        f"{record['trainable_parameters']:,} of {record['total_parameters']:,} parameters trained "
        f"in {record['steps']} steps, {record['seconds']:.0f} s; stopped: {record['stopped_because']}"
    )
    click.echo(f"best validation loss {record['best_loss']:.4f} nats per token at step {record['best_step']}")
    if record["skipped_lines"]:
        lines = ", ".join(map(str, record["skipped_lines"][:10]))
        click.echo(f"left out as too long: {len(record['skipped_lines'])} examples (lines {lines})")
    click.echo(f"{record['result']}: {published}")
    click.echo(f"next: weft eval {run.folder}   or: weft chat {run.folder}")
