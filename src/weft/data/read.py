"""A file of examples → Dataset: JSONL, JSON array, CSV; the layout is detected and said.

Strict and complete: every row becomes a Conversation or a Finding with its line, and nothing is dropped in silence.
Whether the examples are any good is for `data.check`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from weft.data.formats import layouts, objects, sniff, table
from weft.data.formats.flaws import RowFlaw
from weft.data.formats.lines import Lines
from weft.errors import DataError, UsageError
from weft.records import Conversation, Dataset, Finding, Message

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Columns:
    """The names that the user gave, or those recognised in the header of a table."""

    input: str
    output: str


def read(
    path: Path | str, *, input: str | None = None, output: str | None = None, system: str | None = None
) -> Dataset:
    """The examples of a file, with a Finding for each row that is none.

    `input` and `output` name the fields to learn from and to learn; `system` goes before rows without a system message.
    Raises UsageError when the path or a column is not there, DataError when the file is not text or no row can be read.
    """
    dataset = scan(path, input=input, output=output, system=system)
    if not dataset.examples:
        raise DataError(_nothing_readable(dataset))
    return dataset


def scan(
    path: Path | str, *, input: str | None = None, output: str | None = None, system: str | None = None
) -> Dataset:
    """Like `read`, but a file of which no row can be read gives a Dataset of findings alone."""
    return _scan(Path(path), input, output, system)


def require_readable(path: Path | str, *, input: str | None = None, output: str | None = None) -> None:
    """Raise now what `read` would raise; looks no further than the first row that can be read."""
    dataset = _scan(Path(path), input, output, None, most=1)
    if not dataset.examples:
        raise DataError(_nothing_readable(dataset))


def _scan(path: Path, input: str | None, output: str | None, system: str | None, most: int | None = None) -> Dataset:
    """With `most`, of the rows up to so many examples alone."""
    if (input is None) != (output is None):
        raise UsageError("--input and --output go together: name the field to learn from and the field to learn.")
    with objects.open_file(path) as file:
        head = file.read(sniff.HEAD_BYTES)
        if not head.strip(b"\xef\xbb\xbf \t\r\n"):
            raise DataError(f"{path}: the file is empty; expected one example per line.")
        kind = sniff.kind_of(head, str(path))
        file.seek(0)
        named = _Columns(input, output) if input is not None and output is not None else None
        if kind == "table":
            return _Table(path, file, head, named).dataset(system, most)
        lines, rows = objects.rows_of(path, file, kind)
        return _collect(path, lines, rows, named, objects.CONTAINERS[kind], system, most)


class _Table:
    """A CSV file: the header decides the columns, then each row is one example."""

    def __init__(self, path: Path, file: BinaryIO, head: bytes, named: _Columns | None) -> None:
        self.path = path
        text = head.decode("utf-8-sig", "replace")
        if len(head) == sniff.HEAD_BYTES:
            text = text[: text.rfind("\n") + 1] or text
        self.delimiter = table.delimiter_of(text)
        if self.delimiter is None:
            first = text.strip().split("\n")[0].strip()
            raise DataError(
                f"{path}: neither JSONL nor a table: the first line is {first[:60]!r}. "
                'Expected one JSON object per line, or CSV with a header such as "text,label".'
            )
        self.lines = Lines(file, keep_blank=True)
        self.rows = table.rows(self.lines, self.delimiter)
        self.named = named

    def dataset(self, system: str | None, most: int | None) -> Dataset:
        before: list[Finding] = []
        header: tuple[str, ...] | None = None
        for item in self.rows:
            if isinstance(item, Finding):
                before.append(item)
            else:
                header = tuple(cell.strip() for cell in item.cells)
                break
        if header is None:
            raise DataError(f"{self.path}: no header could be read. Line {before[0].line} {_said(before[0])}.")
        columns = self._columns(header)
        container = table.DELIMITERS[self.delimiter or ","] + " "
        rows = chain(before, self._cells(header))
        return _collect(self.path, self.lines, rows, columns, container, system, most)

    def _columns(self, header: tuple[str, ...]) -> _Columns:
        if self.named is None:
            pair = layouts.columns_of(header)
            if pair is None:
                raise UsageError(
                    f"{self.path}: which columns? It has {_list(header)}. "
                    "Name the text and the answer with --input COLUMN --output COLUMN."
                )
            columns = _Columns(*pair)
        else:
            columns = self.named
            _require(self.path, header, columns)
        for name in (columns.input, columns.output):
            if header.count(name) > 1:
                raise UsageError(f"{self.path}: the column {name!r} is there {header.count(name)} times; rename one.")
        return columns

    def _cells(self, header: tuple[str, ...]) -> Iterator[objects.Row | Finding]:
        for item in self.rows:
            if isinstance(item, Finding):
                yield item
            elif len(item.cells) != len(header):
                yield objects.left_out(
                    "columns",
                    item.line,
                    f"has {len(item.cells)} cells; the header has {len(header)}",
                    "Put texts that hold the delimiter or a line break in double quotes.",
                )
            else:
                yield objects.Row(item.line, dict(zip(header, item.cells, strict=True)))


def _collect(
    path: Path,
    lines: Lines,
    rows: Iterator[objects.Row | Finding],
    columns: _Columns | None,
    container: str,
    system: str | None,
    most: int | None,
) -> Dataset:
    examples: list[Conversation] = []
    findings: list[Finding] = []
    cut: list[int] = []
    seen: Counter[str] = Counter()
    keys: tuple[str, ...] = ()
    for row in rows:
        if isinstance(row, Finding):
            findings.append(row)
            continue
        keys = keys or tuple(row.value)
        try:
            example, layout = _understood(row.value, columns)
        except RowFlaw as flaw:
            findings.append(objects.left_out(flaw.rule, row.line, flaw.message, flaw.cure))
            continue
        messages = layouts.until_learned(example.messages)
        if len(messages) < len(example.messages):
            cut.append(row.line)
        if system is not None and messages[0].role != "system":
            messages = (Message("system", system), *messages)
        seen[layout] += 1
        examples.append(replace(example, messages=messages, line=row.line))
        if len(examples) == most:
            break
    bad = len(findings)
    if not examples and findings and all(finding.rule in ("layout", "column") for finding in findings):
        _refuse_layout(path, keys, columns)
    if len(seen) > 1:
        counts = ", ".join(f"{count} {layout}" for layout, count in seen.most_common())
        findings.append(Finding("mixed-layouts", 0, "note", f"rows in several layouts, all read: {counts}"))
    if cut:
        findings.append(_behind_the_last(cut))
    layout = container + (seen.most_common(1)[0][0] if seen else "unknown layout")
    notes = lines.notes()
    return Dataset(str(path), layout, tuple(examples), (*notes, *findings), len(examples) + bad, lines.sha256())


def _behind_the_last(lines: list[int]) -> Finding:
    """What became of messages behind the last answer that the weights want learned."""
    named = ", ".join(map(str, lines[:_SHOWN])) + (" …" if len(lines) > _SHOWN else "")
    message = f"conversations are read up to their last learned answer: weights of 0 behind it (lines {named})"
    return Finding("weight-end", 0, "note", message)


def _understood(row: Mapping[str, Any], columns: _Columns | None) -> tuple[Conversation, str]:
    if columns is None:
        return layouts.by_layout(row)
    named = layouts.by_columns(row, columns.input, columns.output)
    return Conversation(named), f"{columns.input} -> {columns.output}"


def _refuse_layout(path: Path, keys: tuple[str, ...], columns: _Columns | None) -> None:
    if columns is not None:
        _require(path, keys, columns)
    raise UsageError(
        f"{path}: no row fits a known layout; the first one has {_list(keys)}. "
        "Name the text and the answer with --input FIELD --output FIELD, or write chat `messages`."
    )


def _require(path: Path, names: tuple[str, ...], columns: _Columns) -> None:
    """Raises UsageError naming each column that is not there, those that are, and the nearest."""
    problems = []
    for flag, name in (("--input", columns.input), ("--output", columns.output)):
        if name not in names:
            near = difflib.get_close_matches(name.casefold(), [known.casefold() for known in names], n=1, cutoff=0.5)
            spelled = next((known for known in names if near and known.casefold() == near[0]), None)
            problems.append(f"{flag} {name!r} is no column" + (f" (did you mean {spelled!r}?)" if spelled else ""))
    if problems:
        raise UsageError(f"{path}: {'; '.join(problems)}. There are {_list(names)}.")


def _list(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:30])
    return f"{shown} and {len(names) - 30} more" if len(names) > 30 else shown or "none"


def _said(finding: Finding) -> str:
    return finding.message.rstrip(".")


def _nothing_readable(dataset: Dataset) -> str:
    bad = [finding for finding in dataset.findings if finding.severity == "error"]
    if not bad:
        return f"{dataset.path}: there is a header and nothing below it; expected one example per row."
    if all(finding.rule == "preference" for finding in bad):
        return (
            f"{dataset.path}: its {dataset.rows} rows are preference pairs (a better and a worse answer); expected one "
            f"ideal answer each. Learn from them with: weft train {dataset.path} --method dpo"
        )
    shown = "\n".join(f"  line {finding.line} {_said(finding)}. {finding.cure}" for finding in bad[:_SHOWN])
    more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{dataset.path}: none of its {dataset.rows} rows can be read:\n{shown}{more}"
