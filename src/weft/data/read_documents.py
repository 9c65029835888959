"""A file or a folder of texts → DocumentSet: `.txt` and `.md` files whole, JSONL with one text in each row.

Strict and complete as `read.py` is: every file and row becomes a Document or a Finding with its place; files of other
kinds in a folder are counted and named. Whether the texts are worth learning is not judged here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from weft.data.formats.documents import ROWS, TEXTS, documents_of
from weft.errors import DataError, UsageError
from weft.records import Document, DocumentSet, Finding

_SHOWN = 5


def read_documents(path: Path | str) -> DocumentSet:
    """The documents of a file, or of all files below a folder in the order of their names.

    Raises UsageError when the path is not there or is of another kind, DataError when it holds no document.
    """
    path = Path(path)
    findings: list[Finding] = []
    if path.is_dir():
        files, findings = _below(path)
    else:
        files = [(path, path.name)]
        if path.is_file() and path.suffix.lower() not in TEXTS + ROWS:
            raise UsageError(f"{path}: a file of documents is named {_kinds()}. Rename it, or convert it to text.")
    documents: list[Document] = []
    hashes: list[tuple[str, str]] = []
    for file, name in files:
        found, sha256 = documents_of(file, name)
        hashes.append((name, sha256))
        documents += [item for item in found if isinstance(item, Document)]
        findings += [item for item in found if isinstance(item, Finding)]
    if not documents:
        raise DataError(_nothing_readable(path, findings))
    sha256 = _combined(hashes) if path.is_dir() else hashes[0][1]
    return DocumentSet(str(path), _said(documents), tuple(documents), tuple(findings), sha256)


def _below(folder: Path) -> tuple[list[tuple[Path, str]], list[Finding]]:
    """The files to read with their names, and a note about the others. Hidden ones are neither."""
    named = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    named = [(name, file) for name, file in named if not any(part.startswith(".") for part in name.split("/"))]
    files = [(file, name) for name, file in named if file.suffix.lower() in TEXTS + ROWS]
    others = [name for name, file in named if file.suffix.lower() not in TEXTS + ROWS]
    if not files:
        there = f"no such file in it, but for example {others[0]}" if others else "no files in it"
        raise UsageError(f"{folder}: {there}. Expected files named {_kinds()}.")
    if not others:
        return files, []
    shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
    kinds = "1 file of another kind was" if len(others) == 1 else f"{len(others):,} files of other kinds were"
    message = f"{kinds} not read: {shown}"
    return files, [Finding("other-kinds", 0, "warning", message, "", f"Read are files named {_kinds()}.")]


def _combined(hashes: list[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256}\n" for name, sha256 in hashes).encode()).hexdigest()


def _said(documents: list[Document]) -> str:
    rows = Counter(document.file for document in documents if document.line)
    texts = len(documents) - rows.total()
    parts = [_count(texts, "text file")] if texts else []
    parts += [f"{_count(rows.total(), 'row')} of {_count(len(rows), 'JSON file')}"] if rows else []
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def _kinds() -> str:
    return f"{', '.join(TEXTS)} (one document each) or {', '.join(ROWS)} (rows with 'text')"


def _nothing_readable(path: Path, findings: list[Finding]) -> str:
    bad = [finding for finding in findings if finding.severity == "error"]
    shown = "\n".join(
        f"  {finding.place} {finding.message.rstrip('.')}. {finding.cure}".rstrip() for finding in bad[:_SHOWN]
    )
    more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{path}: nothing in it can be read as a document:\n{shown}{more}"
