"""`weft check DATA`: every flaw by line and rule, what it costs and the cure; the mended file with --fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from weft.data.check.context import TokenCount
    from weft.records import Dataset, Finding

_SHOWN_PER_RULE = 3
_ORDER = {"error": 0, "warning": 1, "note": 2}


@click.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--input", "input_", metavar="NAME", help="Column or field that holds the question.")
@click.option("--output", metavar="NAME", help="Column or field that holds the ideal answer.")
@click.option("--system", metavar="TEXT", help="System message for rows that have none.")
@click.option(
    "--base", metavar="NAME", help="Judge lengths too: by this base's tokenizer and chat template, against its context."
)
@click.option(
    "--validation",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Check the examples of FILE too, and name the rows of DATA that it also holds.",
)
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
    base: str | None,
    validation: Path | None,
    fix: Path | None,
    as_json: bool,
) -> None:
    """Every flaw of a file of examples, by line and rule. Ends with 1 when there are errors."""
    from weft.data.check import check, held_out_too
    from weft.data.mend import mend, write_jsonl
    from weft.data.read import scan
    from weft.errors import UsageError

    if fix is not None and fix.exists():
        raise UsageError(f"{fix}: is there already and is not overwritten; name another file.")
    dataset = scan(data, input=input_, output=output, system=system)
    other = None if validation is None else scan(validation, input=input_, output=output, system=system)
    count_tokens, context_tokens = (None, None) if base is None else _measure(base)
    findings = check(dataset, count_tokens=count_tokens, context_tokens=context_tokens)
    held_out: tuple[Finding, ...] = ()
    if other is not None:
        held_out = check(other, count_tokens=count_tokens, context_tokens=context_tokens, held_out=True)
        findings += held_out_too(dataset.examples, other.examples)
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
        print_json(
            _facts(dataset, findings)
            | {"lengths": None if base is None else {"base": base, "context": context_tokens}}
            | ({} if other is None else {"validation": _facts(other, held_out)})
            | ({"fixed": fixed} if fixed else {})
        )
    else:
        from rich.console import Console

        console = Console(highlight=False)
        _print_findings(dataset, findings, console)
        if other is not None:
            console.print()
            _print_findings(other, held_out, console)
        if base is None:
            _say(console, "Lengths are not judged: name a base with --base.")
        else:
            _say(console, f"Lengths are judged by the context of {base}, {context_tokens:,} tokens.")
        if mended is not None:
            _say(console, f"\nWritten: {fix}, {len(mended.examples):,} examples")
            for change in mended.changes or ("nothing had to be changed",):
                _say(console, f"  {change}")
    context.exit(1 if any(finding.severity == "error" for finding in (*findings, *held_out)) else 0)


def _measure(base: str) -> tuple[TokenCount, int]:
    """How many tokens an example is for the base, and how many it holds; no weights are read."""
    from weft.models.load import load_chat

    chat, context = load_chat(base)
    return lambda example: len(chat.example(example.messages, example.offered).ids), context


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
                    text.append(f"\n… and {more:,} more row{'' if more == 1 else 's'} with this flaw")
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
    """Findings by rule and cure, errors first: the first few of each, and how many more there are."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: _ORDER[finding.severity]):
        groups.setdefault((finding.severity, finding.rule, finding.cure), []).append(finding)
    return [(own[:_SHOWN_PER_RULE], len(own) - len(own[:_SHOWN_PER_RULE])) for own in groups.values()]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
