"""`weft check DATA`: every flaw by line and rule, what it costs and the cure; the mended file with --fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from weft.records import Dataset, Finding

_SHOWN_PER_RULE = 3
_ORDER = {"error": 0, "warning": 1, "note": 2}


@click.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--input", "input_", metavar="NAME", help="Column or field that holds the question.")
@click.option("--output", metavar="NAME", help="Column or field that holds the ideal answer.")
@click.option("--system", metavar="TEXT", help="System message for rows that have none.")
@click.option(
    "--fix", metavar="OUT", type=click.Path(path_type=Path), help="Write the mended file as chat JSONL to OUT."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    data: Path,
    input_: str | None,
    output: str | None,
    system: str | None,
    fix: Path | None,
    as_json: bool,
) -> None:
    """Every flaw of a file of examples, by line and rule. Ends with 1 when there are errors."""
    from weft.data.check import check
    from weft.data.mend import mend, write_jsonl
    from weft.data.read import scan
    from weft.errors import UsageError

    if fix is not None and fix.exists():
        raise UsageError(f"{fix}: is there already and is not overwritten; name another file.")
    dataset = scan(data, input=input_, output=output, system=system)
    findings = check(dataset)
    mended = None
    if fix is not None:
        mended = mend(dataset)
        if not mended.examples:
            raise UsageError(f"{data}: no row can be kept, so {fix} was not written; see the errors without --fix.")
        write_jsonl(fix, mended.examples)
    if as_json:
        from weft.cli.terminal import print_json

        fixed = (
            None if mended is None else {"path": str(fix), "examples": len(mended.examples), "changes": mended.changes}
        )
        print_json(_facts(dataset, findings) | ({"fixed": fixed} if fixed else {}))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        _print_findings(dataset, findings, console)
        if mended is not None:
            _say(console, f"\nWritten: {fix}, {len(mended.examples):,} examples")
            for change in mended.changes or ("nothing had to be changed",):
                _say(console, f"  {change}")
    context.exit(1 if any(finding.severity == "error" for finding in findings) else 0)


def _facts(dataset: Dataset, findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "path": dataset.path,
        "layout": dataset.layout,
        "rows": dataset.rows,
        "examples": len(dataset.examples),
        "sha256": dataset.sha256,
        "findings": [finding.to_json() for finding in findings],
    }


def _print_findings(dataset: Dataset, findings: Sequence[Finding], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    _say(console, f"{dataset.path}: {dataset.rows:,} rows, {len(dataset.examples):,} usable examples, {dataset.layout}")
    if not findings:
        _say(console, "No flaw found.")
        return
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("severity", "rule", "line", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("severity", "line"))
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for shown, more in _grouped(findings):
        for index, finding in enumerate(shown):
            text = Text(finding.message)
            if index == len(shown) - 1:
                if more:
                    text.append(f"\n… and {more:,} more rows with this flaw")
                if finding.cost:
                    text.append(f"\ncost: {finding.cost}", "dim")
                if finding.cure:
                    text.append(f"\ncure: {finding.cure}", "dim")
            line = str(finding.line) if finding.line else ""
            table.add_row(Text(finding.severity, styles[finding.severity]), finding.rule, line, text)
    console.print()
    console.print(table)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _ORDER}
    _say(console, "\n" + ", ".join(f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in counts.items()))


def _grouped(findings: Sequence[Finding]) -> list[tuple[list[Finding], int]]:
    """Findings by rule, errors first: the first few of each, and how many more there are."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: _ORDER[finding.severity]):
        groups.setdefault((finding.severity, finding.rule), []).append(finding)
    return [(own[:_SHOWN_PER_RULE], len(own) - len(own[:_SHOWN_PER_RULE])) for own in groups.values()]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
