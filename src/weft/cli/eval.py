"""`weft eval RUN…`: runs on the sealed test split, side by side."""

from __future__ import annotations

import click


@click.command("eval", short_help="Runs and arms on the sealed test split, side by side.")
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print reports and comparisons as one JSON object on stdout.")
def command(runs: tuple[str, ...], as_json: bool) -> None:
    """Measure the arms of each of RUNS that are not measured yet, and compare the tuned models in pairs."""
    from weft.cli.terminal import TerminalProgress, print_json
    from weft.road.side_by_side import side_by_side

    with TerminalProgress() as progress:
        result = side_by_side(runs, progress)
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    from weft.evaluate.terminal import print_report

    console = Console()
    for report in result["runs"]:
        print_report(report, console)
    for comparison in result["comparisons"]:
        first, second = comparison["arms"]
        click.echo(
            f"{first} against {second}: {comparison['metric']} {100 * comparison['difference']:+.1f} points "
            f"({100 * comparison['low']:+.1f} to {100 * comparison['high']:+.1f}), p = {comparison['p']:.3g} "
            f"({comparison['test']}, {comparison['n']} rows)"
        )
