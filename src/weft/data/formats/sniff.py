"""What kind of file this is, judged by its first bytes and never by its name."""

from __future__ import annotations

from typing import Literal

from weft.errors import DataError

HEAD_BYTES = 64 * 1024
Kind = Literal["lines", "array", "objects", "table"]

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip archive", "Unpack it first: gunzip FILE"),
    (b"PK\x03\x04", "zip archive or Excel workbook", "Unpack it, or save the sheet as CSV (UTF-8)"),
    (
        b"PAR1",
        "Parquet file",
        "Write it as JSONL or CSV first, for example with polars: read_parquet(…).write_ndjson(…)",
    ),
    (b"\xd0\xcf\x11\xe0", "old Excel or Word file", "Save the sheet as CSV (UTF-8)"),
    (b"BZh", "bzip2 archive", "Unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "xz archive", "Unpack it first: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "Zstandard archive", "Unpack it first: unzstd FILE"),
    (b"7z\xbc\xaf", "7-Zip archive", "Unpack it first"),
    (b"SQLite format 3", "SQLite database", "Export the table as CSV"),
    (b"ARROW1", "Arrow file", "Write it as JSONL or CSV first"),
    (b"%PDF", "PDF document", "Write examples with a question and an answer each"),
    (b"\x89PNG", "PNG picture", "Write examples as text"),
    (b"\xff\xd8\xff", "JPEG picture", "Write examples as text"),
    (b"\x7fELF", "program", "Name a file of examples"),
    (b"\x80\x04", "Python pickle", "Write it as JSONL; pickles run code when opened and are never read"),
    (b"\x80\x05", "Python pickle", "Write it as JSONL; pickles run code when opened and are never read"),
)
_WIDE = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def kind_of(head: bytes, name: str) -> Kind:
    """The container: `lines` (JSONL), `array`, `objects` (JSON objects over several lines) or `table` (CSV).

    Raises DataError for what is not text, naming what it is and what to do.
    """
    _refuse_binary(head, name)
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if text.startswith("["):
        return "array"
    if lines and lines[0] == "{":
        return "objects"
    objects = sum(line.startswith("{") for line in lines)
    return "lines" if objects and 2 * objects >= len(lines) else "table"


def no_text(head: bytes) -> str | None:
    """What a file is, in words, where its first bytes show that it is no UTF-8 text."""
    wide = next((encoding for mark, encoding in _WIDE if head.startswith(mark)), None) or _unmarked(head)
    if wide:
        return f"{wide} text"
    return next((what for magic, what, _ in _MAGIC if head.startswith(magic)), None) or _binary(head)


def _refuse_binary(head: bytes, name: str) -> None:
    wide = next((encoding for mark, encoding in _WIDE if head.startswith(mark)), None) or _unmarked(head)
    if wide:
        raise DataError(
            f"{name}: the text is {wide}, as its first bytes show; expected UTF-8. "
            f"Write it as UTF-8, for example: iconv -f {wide} -t UTF-8 OLD > NEW"
        )
    for magic, what, cure in _MAGIC:
        if head.startswith(magic):
            raise DataError(
                f"{name}: this is a {what}, judged by its first bytes; expected JSONL, JSON or CSV. {cure}."
            )
    if binary := _binary(head):
        raise DataError(
            f"{name}: this is a {binary}; expected JSONL, JSON or CSV as UTF-8 text. Name a file of examples."
        )


def _binary(head: bytes) -> str | None:
    odd = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\x0b\x0c\x1b")
    return f"binary file ({odd} control bytes in the first {len(head)})" if odd * 20 > len(head) else None


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without its mark: nearly every other byte of Western text is zero, and nearly none between them."""
    zeros = sorted((head[0::2].count(0), head[1::2].count(0)))
    half = len(head) // 2
    return "UTF-16" if half and zeros[1] > 0.7 * half and zeros[0] < 0.1 * half else None
