"""The report in a terminal: the same facts as the page, readable without colour and at 80 columns.

What needs room (prompts, settings, answers side by side) is left to report.html. Text from data is never taken for
markup or terminal commands.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft.evaluate.report import charts, words
from weft.evaluate.report.view import conclusion, confusion, examples, learning, named, tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FINDINGS = 6
"""Kinds of findings that are listed; the others are counted."""


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print verdict, arms, differences, training, fields, findings and the commands to go on."""
    _verdict(report, console)
    _arms(report, console)
    _differences(report, console)
    _training(report, console)
    _fields(report, console)
    _confusion(report, console)
    _findings(report, console)
    _use(report, console)


def _say(console: Console, text: str, *, style: str = "", indent: int = 0, hanging: int = 0) -> None:
    """Text, never markup, wrapped to the console's width at blanks (not at the narrow one before a unit)."""
    from rich.text import Text

    first = " " * indent
    wrapped = textwrap.wrap(
        re.sub("[ \t\n]+", " ", words.plain(text)).strip(),
        console.width,
        initial_indent=first,
        subsequent_indent=first + " " * hanging,
    )
    for line in wrapped:
        console.print(Text(line, style=style), soft_wrap=True)


def _title(console: Console, text: str) -> None:
    console.print()
    _say(console, text, style="bold")


def _table(columns: Sequence[str]) -> Table:
    """First column: names; the others: figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="")
    for at, column in enumerate(columns):
        table.add_column(words.plain(column), justify="right" if at else "left", overflow="fold")
    return table


def _row(table: Table, cells: Sequence[str], *, strong: bool = False) -> None:
    from rich.text import Text

    table.add_row(*(Text(words.plain(cell).replace("\n", " ")) for cell in cells), style="bold" if strong else "")


def _verdict(report: Mapping[str, Any], console: Console) -> None:
    found = conclusion.verdict(report)
    _say(console, f"Verdict: {found['title']}", style="bold")
    _say(console, found["reason"])
    if evidence := found["evidence"]:
        _say(console, _in_words(evidence), indent=2, hanging=2)
    for reason in found["would_change"]:
        _say(console, f"Would change it: {reason}", indent=2, hanging=2)
    if found["costs"]:
        costs = "; ".join(f"{cost['title']} {cost['tokens']}" for cost in found["costs"])
        _say(console, f"Tokens per 1,000 requests: {costs}.", indent=2, hanging=2)


def _in_words(compared: Mapping[str, Any]) -> str:
    p = f", {compared['p']}{' (Holm)' if compared['corrected'] else ''}" if compared["p"] else ""
    test = f", {compared['test']}" if compared["test"] else ""
    first, second = compared["arms"]
    return f"{compared['metric']}, {first} minus {second}: {compared['difference']}{p}{test}, {compared['n']}"


def _arms(report: Mapping[str, Any], console: Console) -> None:
    measured = report.get("arms") or ()
    if not measured:
        return
    main, chosen = named.main_metric(report), named.chosen_arm(report)
    shown = tables.arms(report)
    _title(console, f"Arms, {words.plural(shown['n'], 'row')} of the {shown['split']} split, 95 % intervals")
    second = "format_consistency" if any("format_consistency" in (a.get("metrics") or {}) for a in measured) else None
    names = [name for name in (main, second) if name]
    table = _table(["Arm", *map(words.metric_name, names), "Tokens", "Time"])
    for arm in measured:
        figures = [words.interval(name, (arm.get("metrics") or {}).get(name)) for name in names]
        costs = [words.tokens(arm.get("tokens_per_request")), words.seconds(arm.get("seconds_per_request"))]
        marked = f"{arm['name']} *" if arm["name"] == chosen else arm["name"]
        _row(table, [marked, *figures, *costs], strong=arm["name"] == chosen)
    console.print(table)
    _say(console, f"{'* chosen. ' if chosen else ''}Tokens and time are per request. {shown['held']}")
    _other_metrics(measured, names, console)


def _other_metrics(measured: Sequence[Mapping[str, Any]], told: Sequence[str], console: Console) -> None:
    found = {name: None for arm in measured for name in arm.get("metrics") or {}}
    others = [name for name in found if name not in told and not name.startswith("fields.")]
    for name in others:
        figures = [(arm["name"], words.interval(name, (arm.get("metrics") or {}).get(name))) for arm in measured]
        said = "; ".join(f"{arm} {figure}" for arm, figure in figures if figure != words.NOTHING)
        _say(console, f"{words.metric_name(name)}: {said}.", hanging=2)


def _differences(report: Mapping[str, Any], console: Console) -> None:
    """The chosen arm against each other one; without a choice, every pair. The page has them all."""
    chosen = named.chosen_arm(report)
    shown = [
        conclusion.towards(chosen, c) for c in report.get("comparisons") or () if chosen is None or chosen in c["arms"]
    ]
    if not shown:
        return
    _title(console, "Differences in points, paired on the same rows")
    table = _table(["Pair", "Difference", "p (Holm)"])
    for comparison in shown:
        found = conclusion.compared(comparison, report)
        first, second = comparison["arms"]
        _row(table, [f"{first} - {second}", found["difference"], found["p"]])
    console.print(table)


def _training(report: Mapping[str, Any], console: Console) -> None:
    _title(console, "Training")
    if not (record := report.get("training")):
        _say(console, "Nothing was trained in this run.", indent=2)
        return
    found = learning.facts(record)
    for name, fact in found:
        _say(console, f"{name}: {fact}", indent=2, hanging=2)
    curve = record.get("curve") or {}
    for name in ("train", "validation"):
        if line := charts.in_a_line(curve.get(name)):
            _say(console, f"{name:<10} {line}", indent=2)
    if caption := learning.curve_in_words(record):
        _say(console, caption, indent=2, hanging=2)


def _fields(report: Mapping[str, Any], console: Console) -> None:
    rows = report.get("fields")
    if not rows:
        return
    _title(console, "Field by field")
    present = list({arm: None for row in rows for arm in row.get("arms") or {}})
    table = _table(["Field", *present])
    for row in rows:
        values = [words.value("accuracy", (row["arms"].get(arm) or {}).get("value")) for arm in present]
        _row(table, [row["field"], *values])
    console.print(table)


def _confusion(report: Mapping[str, Any], console: Console) -> None:
    mistaken = confusion.mistaken(report.get("confusion"))
    if mistaken:
        _title(console, "Most often mistaken")
        for pair in mistaken[:5]:
            said = f"{pair['expected']} taken for {pair['answered']}: {pair['count']} of {pair['of']}"
            _say(console, said, indent=2, hanging=2)


def _findings(report: Mapping[str, Any], console: Console) -> None:
    known = report.get("data") or {}
    groups = examples.findings(known.get("findings") or ())
    _title(console, "Data")
    _say(console, examples.data(known) or "Nothing is known of it.", indent=2, hanging=2)
    for group in groups[:FINDINGS]:
        first = group["shown"][0]
        line = f" line {first['line']}:" if first.get("line") else ""
        more = f" (and {words.count(group['count'] - 1)} more)" if group["count"] > 1 else ""
        _say(
            console,
            f"{group['severity']} {group['rule']}:{line} {first.get('message') or ''}{more}",
            indent=2,
            hanging=2,
        )
        for name in ("cost", "cure"):
            if group[name]:
                _say(console, f"{name}: {group[name]}", indent=4, hanging=2)
    if len(groups) > FINDINGS:
        _say(console, f"and findings of {words.plural(len(groups) - FINDINGS, 'other kind')}.", indent=2)


def _use(report: Mapping[str, Any], console: Console) -> None:
    use = report.get("use") or {}
    if not any(use.values()):
        return
    _title(console, "Use it")
    for name, text in use.items():
        if text:
            from rich.text import Text

            # Not wrapped: a command or a path must stay in one piece to be copied.
            console.print(Text(f"  {name:<8} {words.plain(text)}"), soft_wrap=True)
