"""A file as JSON objects with the line where each begins: JSONL, an array, or objects spread over several lines.

What an object means is for the layouts; a text that is no object becomes a Finding and reading goes on.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from weft.data.formats import array, sniff, strict_json
from weft.data.formats.lines import MAX_LINE_BYTES, Line, Lines
from weft.errors import DataError, UsageError
from weft.records import Finding

MAX_ARRAY_BYTES = 256 * 1024 * 1024
CONTAINERS: dict[sniff.Kind, str] = {"lines": "", "array": "JSON array of ", "objects": "JSON objects of ", "table": ""}
"""How the kind of a file is said before the layout of its rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object; `line` is where it begins."""

    line: int
    value: Mapping[str, Any]


def open_file(path: Path) -> BinaryIO:
    """The file, to be closed by the caller. Raises UsageError where it is not there, or is no regular file."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path}: this is a directory; name a file of examples (JSONL, JSON or CSV).")
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: this is not a regular file; save the examples in a file first.")
        return path.open("rb")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.{_neighbour(path)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: cannot be opened ({reason}). Check the path and its permissions.") from None


def _neighbour(path: Path) -> str:
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return f" The folder {path.parent} is not there either."
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / near[0]}?" if near else " Name an existing file of examples."


def rows_of(path: Path, file: BinaryIO, kind: sniff.Kind) -> tuple[Lines, Iterator[Row | Finding]]:
    """The rows of a file that is not a table, and the lines they come from (whose hash holds once all are read)."""
    # A compact array is one long line; its elements are measured one by one instead.
    lines = Lines(file) if kind == "lines" else Lines(file, limit=MAX_ARRAY_BYTES)
    return lines, _parsed(lines) if kind == "lines" else _parsed(_whole(path, file, lines))


def left_out(rule: str, line: int, message: str, cure: str) -> Finding:
    """The finding of a row that is no example."""
    return Finding(rule, line, "error", message, "the row is left out", cure)


def _whole(path: Path, file: BinaryIO, lines: Lines) -> Iterator[Line | Finding]:
    """The elements of a file that is one JSON text. It is held in memory, hence the limit."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{path}: a JSON array of {size:,} bytes; at most {MAX_ARRAY_BYTES:,} are read at once. "
            "Write it as JSONL (one object per line), which has no such limit."
        )
    kept: list[str] = []
    for item in lines:
        if isinstance(item, Finding):
            yield item
            continue
        # Blank and unreadable lines keep their place, so that line numbers stay true.
        kept.extend([""] * (item.number - 1 - len(kept)))
        kept.append(item.text)
    for item in array.elements("\n".join(kept)):
        if isinstance(item, Line) and len(item.text) > MAX_LINE_BYTES:
            message = f"begins a row of {len(item.text):,} characters; a row may have at most {MAX_LINE_BYTES:,}"
            yield Finding("line-length", item.number, "error", message, "the row is left out", "Split the text.")
        else:
            yield item


def _parsed(lines: Iterator[Line | Finding] | Lines) -> Iterator[Row | Finding]:
    for item in lines:
        if isinstance(item, Finding):
            yield item
            continue
        try:
            value = strict_json.parse(item.text)
        except strict_json.JsonFlaw as flaw:
            yield left_out(flaw.rule, item.number, flaw.message, flaw.cure)
            continue
        if isinstance(value, dict):
            yield Row(item.number, value)
        else:
            kind = "list" if isinstance(value, list) else "single value"
            yield left_out(
                "not-object", item.number, f"is a {kind}; expected an object", "Write {…} with named fields."
            )
