"""Every text becomes a document or a finding with file and line; nothing is dropped in silence."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from weft.data.read_documents import read_documents
from weft.errors import DataError, UsageError
from weft.records import Document


def _folder(root: Path) -> Path:
    folder = root / "texts"
    (folder / "deep" / ".git").mkdir(parents=True)
    (folder / "b.txt").write_bytes("\ufeffÄpfel\r\nund  Birnen\r\n".encode())
    (folder / "a.MD").write_text("# Title\n\n\nText with <|endoftext|> in it.")
    rows = [{"text": "one", "id": 1}, {"text": "two\nlines"}]
    (folder / "deep" / "c.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    (folder / "deep" / ".git" / "d.txt").write_text("hidden")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    return folder


def test_a_folder_is_read_in_the_order_of_its_names_and_other_kinds_are_named(tmp_path: Path) -> None:
    found = read_documents(_folder(tmp_path))
    assert found.documents == (
        Document("# Title\n\n\nText with <|endoftext|> in it.", "a.MD"),
        Document("Äpfel\nund  Birnen", "b.txt"),
        Document("one", "deep/c.jsonl", 1),
        Document("two\nlines", "deep/c.jsonl", 3),
    )
    assert found.layout == "2 text files, 2 rows of 1 JSON file"
    said = {finding.rule: f"{finding.place}: {finding.message}" for finding in found.findings}
    assert said["other-kinds"] == ": 1 file of another kind was not read: photo.png"
    assert said["bom"].startswith("b.txt, line 1: ") and "2 lines end in" in said["carriage-return"]


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"text\n")
    assert read_documents(path).sha256 == hashlib.sha256(b"text\n").hexdigest()
    folder = _folder(tmp_path)
    before = read_documents(folder).sha256
    (folder / "photo.png").write_bytes(b"other")
    assert read_documents(folder).sha256 == before
    (folder / "b.txt").rename(folder / "bb.txt")
    assert read_documents(folder).sha256 != before


def test_an_array_and_objects_over_several_lines_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=1))
    assert [(d.text, d.line) for d in read_documents(tmp_path / "a.json").documents] == [("one", 2), ("two", 5)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"fine\nna\xefve\n", "a.txt, line 2 is not UTF-8: byte 0xEF at byte 7 of the file"),
        ("a.md", b"x\n" * 40 + b"a\0b\n", "a.md, line 41 holds a NUL byte"),
        ("a.txt", b" \n\n", "a.txt is empty"),
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", gzip.compress(b"text", mtime=0), "a.txt is a gzip archive, as its first bytes show"),
        ("a.txt", bytes(range(32)) * 9, "a.txt is a binary file"),
        ("a.txt", "text".encode("utf-16"), "a.txt is a UTF-16 text"),
        ("a.jsonl", b'{"text": "cut', "a.jsonl, line 1 is not valid JSON"),
        ("a.jsonl", b'{"messages": []}', "a.jsonl, line 1 has no 'text'; it has 'messages'.*--method sft"),
        ("a.jsonl", b'\n{"text": null}', "a.jsonl, line 2 has a null under 'text'"),
        ("a.jsonl", b'{"text": ["a"]}', "a.jsonl, line 1 has a list under 'text'"),
        ("a.jsonl", b'{"text": " \\n"}', "a.jsonl, line 1 has an empty 'text'"),
        ("a.jsonl", b'{"a": 1}\n[1]', r"(?s)line 1 has no 'text'.*line 2 is a list"),
        ("a.json", b"just words", "a.json holds no JSON objects"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_documents(tmp_path / name)
    # Beside a good document it is a finding, and the good one is kept.
    (tmp_path / "good.txt").write_text("good")
    found = read_documents(tmp_path)
    assert [document.text for document in found.documents] == ["good"]
    assert {finding.file for finding in found.findings} == {name}
    assert all(finding.severity == "error" and finding.cost and finding.cure for finding in found.findings)
    assert found.findings[0].to_json()["file"] == name


def test_paths_that_are_no_documents_are_refused_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no files in it\. Expected files named \.txt"):
        read_documents(tmp_path)
    (tmp_path / "table.csv").write_text("text,label\na,b\n")
    with pytest.raises(UsageError, match=r"no such file in it, but for example table\.csv"):
        read_documents(tmp_path)
    with pytest.raises(UsageError, match=r"a file of documents is named \.txt"):
        read_documents(tmp_path / "table.csv")
    with pytest.raises(UsageError, match=r"no such file\. Did you mean .*table\.csv"):
        read_documents(tmp_path / "tables.csv")


def test_public_text_is_read_whole(shared: Path) -> None:
    path = shared / "data/wikipedia-sample/wiki_demo.txt"
    (document,) = read_documents(path).documents
    assert document.text == path.read_text(encoding="utf-8").removesuffix("\n")
