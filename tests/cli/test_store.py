"""`weft store check`: what is whole is called so, each damage is named and ends in 1, nothing is made or mended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli import cli
from weft.errors import UsageError
from weft.serve.store import Store

CONTENT = b'{"messages": []}\n'


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["store", "check", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a server that has stopped: one file in it."""
    store = Store.open(tmp_path / "data")
    store.files.create("ann", "a.jsonl", "fine-tune", *store.blobs.put([CONTENT], 1 << 20))
    store.close()
    return tmp_path / "data"


def content(data: Path) -> Path:
    (path,) = (data / "blobs").iterdir()
    return path


def test_a_whole_store_is_called_so_and_ends_with_zero(data: Path) -> None:
    quick, deep = run("--data", data), run("--data", data, "--deep")
    assert (quick.exit_code, deep.exit_code) == (0, 0)
    assert quick.stdout == f"{data}: no damage found. Content was not read; --deep reads it.\n"
    assert deep.stdout == f"{data}: no damage found, all content read.\n"


def test_a_changed_byte_is_found_by_reading_and_a_missing_file_without(data: Path) -> None:
    content(data).write_bytes(CONTENT.replace(b"m", b"M"))
    assert run("--data", data).exit_code == 0
    deep = run("--data", data, "--deep")
    assert deep.exit_code == 1
    assert f"{data}: 1 damage found\n  wrong content  file-" in deep.stdout
    content(data).unlink()
    (data / "notes.txt").write_text("")
    quick = run("--data", data, "--json")
    assert quick.exit_code == 1
    told = json.loads(quick.stdout)
    assert (told["data"], told["deep"]) == (str(data), False)
    assert [damage["kind"] for damage in told["damages"]] == ["missing content", "stray"]
    assert {"kind", "where", "message"} == set(told["damages"][0])
    assert not any((data / "blobs").iterdir()) and (data / "notes.txt").exists()


def test_what_is_no_data_folder_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", tmp_path):
        result = run("--data", wrong)
        assert isinstance(result.exception, UsageError)
        assert f"{wrong}: no data folder of a server (store.json is missing). Name it with --data." in str(
            result.exception
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_server_works_in_is_refused(data: Path) -> None:
    store = Store.open(data)
    try:
        result = run("--data", data)
    finally:
        store.close()
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2
    assert "another `weft serve` is working here" in str(result.exception)


def test_the_folder_is_that_of_the_server_where_none_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_DATA", str(data))
    assert run().stdout.startswith(f"{data}: no damage found")


def test_a_copy_of_the_folder_is_looked_through_in_the_same_way(data: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    assert run("--data", copy, "--deep").exit_code == 0
    os.truncate(content(copy), 3)
    assert "3 bytes, expected" in run("--data", copy).stdout
    assert run("--data", data, "--deep").exit_code == 0
