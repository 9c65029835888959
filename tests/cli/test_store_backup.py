"""`weft store backup` beside a working server, `weft store restore`: one command each way (T5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli import cli
from weft.errors import UsageError
from weft.serve.store import Store


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["store", *map(str, arguments)])


def test_a_backup_of_a_server_at_work_is_served_or_put_back_by_one_command(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    file = store.files.create("ann", "a.jsonl", "fine-tune", *store.blobs.put([b"1234567890" * 5000], 1 << 20))
    taken = run("backup", tmp_path / "copy", "--data", tmp_path / "data")
    store.close()
    assert (taken.exit_code, taken.stdout) == (
        0,
        f"{tmp_path}/copy: 1 pieces of content, 0 adapters, 0.1 MB.\nServe it: weft serve --data {tmp_path}/copy\n",
    )
    put_back = run("restore", tmp_path / "copy", "--data", tmp_path / "back")
    assert (put_back.exit_code, put_back.stdout) == (
        0, f"{tmp_path}/back: 1 pieces of content, 0 adapters, 0.1 MB.\n",
    )  # fmt: skip
    for folder in ("copy", "back"):
        assert run("check", "--data", tmp_path / folder, "--deep").exit_code == 0
    back = Store.open(tmp_path / "back")
    assert back.files.list("ann").items == (file,)
    back.close()


def test_damage_is_named_and_the_answer_is_no(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    file = store.files.create("ann", "a.jsonl", "fine-tune", *store.blobs.put([b"abc"], 1 << 20))
    store.blobs.path(file.sha256).write_bytes(b"abd")
    store.close()
    taken = run("backup", tmp_path / "copy", "--data", tmp_path / "data")
    assert taken.exit_code == 1
    assert "Damaged in the source and left out: 1\n  damaged content  " in taken.stdout


def test_with_json_the_facts_are_those_of_the_words(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    for content in (b"abc", b"whole"):
        file = store.files.create("ann", "a.jsonl", "fine-tune", *store.blobs.put([content], 1 << 20))
    store.blobs.path(file.sha256).write_bytes(b"wrong")
    store.close()
    taken = run("backup", tmp_path / "copy", "--data", tmp_path / "data", "--json")
    told = json.loads(taken.stdout)
    (damage,) = told.pop("damages")
    assert told == {
        "data": f"{tmp_path}/data", "backup": f"{tmp_path}/copy", "files": 1, "adapters": 0, "bytes": 3,
    }  # fmt: skip
    assert (damage["kind"], damage["where"], taken.exit_code) == ("damaged content", file.sha256, 1)
    assert "hashes to" in damage["message"]
    put_back = run("restore", tmp_path / "copy", "--data", tmp_path / "back", "--json")
    facts = {"data": f"{tmp_path}/back", "backup": f"{tmp_path}/copy", "files": 1, "adapters": 0, "bytes": 3}
    again = json.loads(put_back.stdout)
    assert [damage["where"] for damage in again.pop("damages")] == [file.sha256]  # its row is still there
    assert (again, put_back.exit_code) == (facts, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("backup", "there", "--data", "data"), "there: exists already. Name a folder that is not there yet."),
        (("backup", "copy", "--data", "nowhere"), "nowhere: no data folder of a server"),
        (("restore", "nowhere", "--data", "new"), "nowhere: no data folder of a server"),
        (("restore", "data", "--data", "there"), "there: exists already"),
    ],
)
def test_what_cannot_be_done_is_misuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Store.open(tmp_path / "data").close()
    (tmp_path / "there").write_text("")
    refused = run(*arguments)
    assert isinstance(refused.exception, UsageError) and refused.exception.exit_code == 2
    assert said in str(refused.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "there"}
