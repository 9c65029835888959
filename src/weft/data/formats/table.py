"""CSV and its relatives (`,` `;` tab `|`) as rows of named cells with the physical line where each begins.

Stands on the standard library's reader in strict mode. An unclosed quote costs one row, not the rest of the file.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from weft.data.formats.lines import Line
from weft.records import Finding

DELIMITERS = {",": "CSV", ";": "CSV (;)", "\t": "TSV", "|": "CSV (|)"}
_MAX_ROW_LINES = 1000


@dataclass(frozen=True, slots=True)
class Cells:
    """A row of the table; the first one is the header."""

    line: int
    cells: tuple[str, ...]


class _Unclosed(Exception):
    """A quoted cell runs on for more lines than any cell should."""


def delimiter_of(head: str) -> str | None:
    """The delimiter that gives the first rows the most equal number of cells; None when there is only one column."""
    best, best_score = None, (0.0, 0)
    for delimiter in DELIMITERS:
        widths = _widths(head, delimiter)
        if not widths or widths[0] < 2:
            continue
        score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _widths(head: str, delimiter: str) -> list[int]:
    widths: list[int] = []
    try:
        for row in csv.reader(head.splitlines(keepends=True), delimiter=delimiter):
            if row:
                widths.append(len(row))
            if len(widths) == 50:
                break
    except csv.Error:
        pass
    return widths


def rows(lines: Iterable[Line | Finding], delimiter: str) -> Iterator[Cells | Finding]:
    """Header and rows; blank lines must be among `lines`, since a quoted cell may hold them."""
    source = iter(lines)
    pending: deque[Line] = deque()
    taken: list[Line] = []
    found: list[Finding] = []

    def feed() -> Iterator[str]:
        while (item := pending.popleft() if pending else next(source, None)) is not None:
            if isinstance(item, Finding):
                found.append(item)
                continue
            taken.append(item)
            if len(taken) > _MAX_ROW_LINES:
                raise _Unclosed
            yield item.text + "\n"

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            cells = next(reader, None)
        except (csv.Error, _Unclosed) as error:
            yield from found
            found.clear()
            unclosed = isinstance(error, _Unclosed) or "unexpected end" in str(error) or "field limit" in str(error)
            yield _flaw(taken, "a quote that is not closed" if unclosed else str(error), delimiter)
            if unclosed:
                pending.extendleft(reversed(taken[1:]))
            reader = csv.reader(feed(), delimiter=delimiter, strict=True)
            continue
        yield from found
        found.clear()
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield Cells(taken[0].number, tuple(cells))


def _flaw(taken: list[Line], problem: str, delimiter: str) -> Finding:
    return Finding(
        "csv-quote",
        taken[0].number if taken else 0,
        "error",
        f"cannot be read as {DELIMITERS[delimiter]}: {problem}, near {taken[0].text[:24] if taken else ''!r}",
        "the row is left out",
        'Put a text with quotes, delimiters or line breaks in quotes, and double the quotes inside: "say ""hi""".',
    )
