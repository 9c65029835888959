"""A file as numbered UTF-8 lines in bounded memory, hashed as it is read.

Lines end at `\\n` only. A line that cannot be text becomes a Finding and reading goes on with the next one.
What a line means is for the other files here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from weft.records import Finding

MAX_LINE_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; `number` counts from 1."""

    number: int
    text: str


class Lines:
    """Iterates over the non-blank lines of `file` as Line or Finding. `sha256()` and `notes()` hold afterwards."""

    def __init__(self, file: BinaryIO, *, keep_blank: bool = False, limit: int = MAX_LINE_BYTES) -> None:
        self._file = file
        self._keep_blank = keep_blank
        self._limit = limit
        self._hash = hashlib.sha256()
        self._bom = False
        self._returns = 0
        self._first_return = 0

    def __iter__(self) -> Iterator[Line | Finding]:
        number = offset = 0
        while raw := self._file.readline(self._limit + 1):
            number += 1
            self._hash.update(raw)
            size = len(raw)
            if size > self._limit and not raw.endswith(b"\n"):
                size += self._skip_rest()
                yield _too_long(number, size, self._limit)
            else:
                item = self._decode(raw, number, offset)
                if isinstance(item, Finding) or self._keep_blank or item.text.strip():
                    yield item
            offset += size

    def sha256(self) -> str:
        """Of all bytes read so far, in hexadecimal."""
        return self._hash.hexdigest()

    def notes(self) -> tuple[Finding, ...]:
        """What is unusual about the file as a whole and did no harm."""
        notes = []
        if self._bom:
            notes.append(Finding("bom", 1, "note", "the file begins with a byte order mark; it was left out"))
        if self._returns:
            notes.append(
                Finding(
                    "carriage-return",
                    self._first_return,
                    "note",
                    f"{self._returns} lines end in \\r\\n (Windows); the \\r was left out",
                )
            )
        return tuple(notes)

    def _skip_rest(self) -> int:
        """Bytes up to and with the end of the line that is being read."""
        size = 0
        while raw := self._file.readline(1024 * 1024):
            self._hash.update(raw)
            size += len(raw)
            if raw.endswith(b"\n"):
                break
        return size

    def _decode(self, raw: bytes, number: int, offset: int) -> Line | Finding:
        raw = raw.removesuffix(b"\n")
        if raw.endswith(b"\r"):
            raw = raw[:-1]
            self._returns += 1
            self._first_return = self._first_return or number
        if number == 1 and raw.startswith(_BOM):
            self._bom = True
            raw, offset = raw[len(_BOM) :], offset + len(_BOM)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return _not_utf8(number, offset + error.start, raw[error.start])
        if "\0" in text:
            return Finding(
                "nul",
                number,
                "error",
                f"holds a NUL byte at byte {offset + raw.index(0)} of the file",
                "the row is left out",
                "Remove the NUL bytes, or write the file again as UTF-8 text.",
            )
        return Line(number, text)


def _too_long(number: int, size: int, limit: int) -> Finding:
    return Finding(
        "line-length",
        number,
        "error",
        f"is {size:,} bytes long; a row may have at most {limit:,}",
        "the row is left out",
        "Split the text into shorter examples, or check that the rows are separated by line breaks.",
    )


def _not_utf8(number: int, offset: int, byte: int) -> Finding:
    return Finding(
        "encoding",
        number,
        "error",
        f"is not UTF-8: byte 0x{byte:02X} at byte {offset} of the file (Latin-1 or Windows-1252?)",
        "the row is left out",
        "Write the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
    )
