"""Measured tables into docs/benchmarks.md, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; the rest is prose."""

from __future__ import annotations

from pathlib import Path

from weft.errors import UsageError
from weft.runs import write_whole

PAGE = Path("docs/benchmarks.md")


def update(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between the markers of `name`. Raises UsageError where the page or a marker is missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    try:
        whole = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{page}: cannot be read ({error.strerror}). Run this from the checkout.") from None
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(end) < whole.index(begin):
        raise UsageError(f"{page}: expected {begin} once, then {end} once. Put both back where the table belongs.")
    before, rest = whole.split(begin)
    _, after = rest.split(end)
    write_whole(page, f"{before}{begin}\n{text.strip()}\n{end}{after}".encode())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads in a terminal."""
    whole = [header, *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in whole
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
