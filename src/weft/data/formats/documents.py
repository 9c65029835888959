"""One file as documents: a text file is one whole, a JSON file has one in each row, under `text`.

Of a text file the byte order mark, the `\\r` of Windows and the line break at its end are left out.
What cannot be read becomes a Finding with its line; nothing is guessed, mended or dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from weft.data.formats import objects, sniff
from weft.data.formats.lines import Lines
from weft.records import Document, Finding

TEXTS = (".txt", ".md", ".rst")
ROWS = (".jsonl", ".ndjson", ".json")
MAX_TEXT_BYTES = 256 * 1024 * 1024


def documents_of(path: Path, name: str) -> tuple[list[Document | Finding], str]:
    """The documents and findings of the file, under `name` and in their order; and the SHA-256 of its bytes.

    Raises UsageError where the file is not there or cannot be opened, DataError for a JSON array beyond 256 MiB.
    """
    with objects.open_file(path) as file:
        head = file.read(sniff.HEAD_BYTES)
        file.seek(0)
        lines, found = _read(path, file, head, name)
        items = list(found)
        for _ in lines:  # to the end, so that the hash is that of the whole file
            pass
        notes = [replace(note, file=name) for note in lines.notes()]
        return [*notes, *items], lines.sha256()


def _read(path: Path, file: BinaryIO, head: bytes, name: str) -> tuple[Lines, Iterator[Document | Finding]]:
    whole = Lines(file, keep_blank=True, limit=MAX_TEXT_BYTES)
    if other := sniff.no_text(head):
        cure = "Save what it says as UTF-8 text, or leave the file out."
        return whole, iter([_left_out("binary", name, f"is a {other}, as its first bytes show", cure)])
    if path.suffix.lower() not in ROWS:
        return whole, _whole(whole, name)
    kind = sniff.kind_of(head, name)
    if kind == "table":
        cure = 'Write {"text": "…"} on each line, or name a text file .txt.'
        return whole, iter([_left_out("layout", name, "holds no JSON objects", cure)])
    lines, rows = objects.rows_of(path, file, kind)
    return lines, _rows(rows, name)


def _whole(lines: Lines, name: str) -> Iterator[Document | Finding]:
    kept: list[str] = []
    flaws: list[Finding] = []
    for item in lines:
        if isinstance(item, Finding):
            flaws.append(item)
        else:
            kept.append(item.text)
    if not flaws and not any(text.strip() for text in kept):
        flaws = [_left_out("empty", name, "is empty", "Remove the file, or write a text into it.")]
    if not flaws:
        yield Document("\n".join(kept), name)
        return
    more = f" (and {len(flaws) - 1} more such lines)" if len(flaws) > 1 else ""
    yield replace(flaws[0], file=name, message=flaws[0].message + more, cost="the document is left out")


def _rows(rows: Iterator[objects.Row | Finding], name: str) -> Iterator[Document | Finding]:
    for row in rows:
        if isinstance(row, Finding):
            yield replace(row, file=name)
            continue
        text = row.value.get("text")
        if isinstance(text, str) and text.strip():
            yield Document(text, name, row.line)
        elif "text" not in row.value:
            keys = ", ".join(repr(key[:60]) for key in list(row.value)[:10]) or "nothing"
            cure = 'Write each document as {"text": "…"}. Conversations are learned with --method sft.'
            yield _left_out("no-text", name, f"has no 'text'; it has {keys}", cure, row.line)
        elif isinstance(text, str):
            yield _left_out("empty", name, "has an empty 'text'", "Remove the row, or write its text.", row.line)
        else:
            found = "null" if text is None else type(text).__name__
            cure = "Write the text as a string, in quotes."
            yield _left_out("text", name, f"has a {found} under 'text'; expected a string", cure, row.line)


def _left_out(rule: str, name: str, message: str, cure: str, line: int = 0) -> Finding:
    return Finding(rule, line, "error", message, "the document is left out", cure, name)
