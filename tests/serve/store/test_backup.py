"""T5: a backup of a store in use holds all that was acknowledged before it, and is a store of its own."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.serve.store.conftest import wipe
from tests.serve.store.scenes import adapter, new_job, put_file, start
from tests.serve.store.test_check import furnished, one_adapter
from weft.errors import DamageError, ResourceError, UsageError
from weft.serve.leases import Leases
from weft.serve.store import Store, backup
from weft.serve.store.backup import copy_store
from weft.serve.store.blobs import DiskBlobs
from weft.serve.store.database import connect
from weft.serve.store.migrate import migrate
from weft.serve.store.schema import metadata


@pytest.fixture
def url(request: pytest.FixtureRequest, store: Store) -> str | None:
    """The database of `store`."""
    if store.ground.database.is_sqlite:
        return None
    return f"{request.getfixturevalue('postgres_url')}&dbname=lasting"


@pytest.fixture
def empty_url(request: pytest.FixtureRequest) -> str:
    """An empty PostgreSQL database."""
    url = request.getfixturevalue("postgres_url")
    wipe(url)
    return url


def content(store: Store) -> dict[str, list[Any]]:
    """Every row of every table, in order."""
    with store.ground.database.read() as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for name, table in metadata.tables.items()
        }


def expect_whole(store: Store, rows: dict[str, list[Any]]) -> None:
    """No damage, and these rows."""
    try:
        assert store.check(deep=True) == ()
        assert content(store) == rows
    finally:
        store.close()


def test_a_backup_is_a_whole_store_whose_database_is_sqlite(store: Store, url: str | None, quick: Path) -> None:
    furnished(store)
    new_job(store)
    copied = copy_store(store.data, url, quick / "copy")
    assert (copied.files, copied.adapters, copied.damages) == (4, 2, ())
    assert copied.bytes == sum(path.stat().st_size for path in (quick / "copy").glob("*s/**/*") if path.is_file())
    assert {path.name for path in quick.iterdir()} == {"copy"}
    for path in (quick / "copy").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    expect_whole(Store.open(quick / "copy", mend=False), content(store))
    copy_store(quick / "copy", None, quick / "again")
    expect_whole(Store.open(quick / "again"), content(store))


def test_a_store_goes_into_postgresql_and_back(sqlite_store: Store, empty_url: str, quick: Path) -> None:
    from tests.serve.store.conftest import empty

    empty(sqlite_store)
    furnished(sqlite_store)
    new_job(sqlite_store, metadata={"who": "a\0\ud800"})
    (quick / "grown").mkdir()
    copy_store(sqlite_store.data, None, quick / "grown", empty_url)
    assert not (quick / "grown" / "weft.db").exists()
    expect_whole(Store.open(quick / "grown", empty_url), content(sqlite_store))
    with pytest.raises(UsageError, match=r"is not empty \(files has rows\). Name an empty database"):
        copy_store(sqlite_store.data, None, quick / "twice", empty_url)
    assert not (quick / "twice").exists()


def test_what_is_deleted_while_it_is_copied_is_in_the_backup_and_goes_afterwards(
    store: Store, url: str | None, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: everything is deleted after the database was copied, before the first piece of content is."""
    furnished(store)
    before, copy_content = content(store), backup._copy_content

    def late(*given: Any) -> Any:
        for file in store.files.list("ann").items:
            store.files.delete("ann", file.id)
        for model in store.models.list("ann"):
            store.models.delete("ann", model.id)
        upload = before["uploads"][0][0]
        store.uploads.cancel("ann", upload)
        assert store.sweep() == 0
        return copy_content(*given)

    monkeypatch.setattr(backup, "_copy_content", late)
    assert copy_store(store.data, url, quick / "copy").damages == ()
    expect_whole(Store.open(quick / "copy", mend=False), before)
    assert any((store.data / "blobs").iterdir()) and any((store.data / "adapters").iterdir())
    assert store.sweep() == 6
    assert not any((store.data / "blobs").iterdir()) and not any((store.data / "adapters").iterdir())


def backups_under_load(folder: Path, url: str | None, backups: int, writers: int, seed: int, pace: float = 0.0) -> int:
    """Take backups while files come and go; how many files were acknowledged. None of them may be missing."""
    store, stop = Store.open(folder / "data", url), threading.Event()
    told: dict[str, str] = {}
    leaving: set[str] = set()
    lock = threading.Lock()

    def write(number: int) -> None:
        chance, mine = random.Random(seed + number), []
        while not stop.is_set():
            file = put_file(store, b"%d %d\n" % (number, len(mine)) * chance.randrange(1, 9000))
            with lock:
                told[file.id] = file.sha256
            mine.append(file.id)
            if chance.random() < 0.4:
                gone = mine.pop(chance.randrange(len(mine)))
                with lock:
                    leaving.add(gone)
                store.files.delete("ann", gone)
            stop.wait(pace)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        for number in range(backups):
            while len(told) < (number + 1) * 6 and all(thread.is_alive() for thread in threads):
                stop.wait(0.01)
            with lock:
                sure = dict(told)
            assert copy_store(folder / "data", url, folder / f"copy-{number}").damages == ()
            copy = Store.open(folder / f"copy-{number}", mend=False)
            assert copy.check(deep=True) == ()
            found = {file.id: file.sha256 for file in copy.files.list("ann").items}
            copy.close()
            with lock:
                kept = {id: sha256 for id, sha256 in sure.items() if id not in leaving}
            assert kept.items() <= found.items()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert store.check(deep=True) == () or store.sweep() > 0
        store.close()
    return len(told)


def test_backups_under_load_miss_nothing_that_was_acknowledged(quick: Path, database_url: str | None) -> None:
    """T5, two backups beside two writers."""
    assert backups_under_load(quick, database_url, backups=2, writers=2, seed=1, pace=0.05) >= 12


@pytest.mark.slow
def test_many_backups_under_load_miss_nothing_that_was_acknowledged(quick: Path, database_url: str | None) -> None:
    """T5, twenty backups beside six writers."""
    print(f"T5: {backups_under_load(quick, database_url, backups=20, writers=6, seed=2, pace=0.01)} files acknowledged")


def test_a_job_at_work_is_queued_again_in_the_copy(sqlite_store: Store, quick: Path) -> None:
    from tests.serve.store.conftest import empty

    empty(sqlite_store)
    new_job(sqlite_store)
    job, _ = start(Leases(sqlite_store))
    (sqlite_store.data / "work" / job.id).mkdir()
    copy_store(sqlite_store.data, None, quick / "copy")
    copy = Store.open(quick / "copy")
    assert copy.jobs.get("ann", job.id).status == "queued"
    assert not any((quick / "copy" / "work").iterdir())
    copy.close()


def test_damaged_content_is_named_and_costs_nothing_else(store: Store, url: str | None, quick: Path) -> None:
    file, whole = furnished(store), put_file(store, b"whole")
    missing = put_file(store, b"missing")
    store.blobs.path(file.sha256).write_bytes(b"A file of its own")
    store.blobs.path(missing.sha256).unlink()
    damaged = one_adapter(store).name
    (one_adapter(store) / "adapter_model.safetensors").write_bytes(b"other")
    copied = copy_store(store.data, url, quick / "copy")
    found = {(damage.kind, damage.where) for damage in copied.damages}
    assert found == {
        ("damaged content", file.sha256), ("damaged content", missing.sha256), ("damaged adapter", damaged),
    }  # fmt: skip
    assert {damage.message.partition(": ")[2].partition(" ")[0] for damage in copied.damages} == {"its", "cannot"}
    assert (copied.files, copied.adapters) == (4, 1)
    copy = Store.open(quick / "copy", mend=False)
    assert sorted(damage.kind for damage in copy.check()) == ["missing adapter", "missing content", "missing content"]
    assert copy.blobs.open(whole.sha256).read() == b"whole"
    copy.close()


def test_what_cannot_be_copied_is_said_and_nothing_is_made(sqlite_store: Store, quick: Path) -> None:
    (quick / "full").mkdir()
    (quick / "full" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"nowhere: no data folder of a server \(store.json is missing\)"):
        copy_store(quick / "nowhere", None, quick / "copy")
    for there in ("full", "full/notes.txt"):
        with pytest.raises(UsageError, match=r"exists already. Name a folder that is not there yet"):
            copy_store(sqlite_store.data, None, quick / there)
    with pytest.raises(UsageError, match=r"lies in the data folder itself\. Name a folder elsewhere"):
        copy_store(sqlite_store.data, None, sqlite_store.data / "work" / "copy")
    assert {path.name for path in quick.iterdir()} == {"full"}


def test_a_forgotten_url_gives_no_backup_of_nothing(quick: Path, empty_url: str) -> None:
    """With the content of a PostgreSQL's folder and an empty SQLite, a copy would be whole, and empty."""
    store = Store.open(quick / "data", empty_url)
    put_file(store)
    store.close()
    with pytest.raises(UsageError, match=r"another database than weft\.db, which is not there\. Name that one"):
        copy_store(quick / "data", None, quick / "copy")
    assert not (quick / "data" / "weft.db").exists()
    Store.open(quick / "other").close()
    shutil.copy(quick / "other" / "weft.db", quick / "data")
    with pytest.raises(UsageError, match=r"belongs to another database than the one that was opened"):
        copy_store(quick / "data", None, quick / "copy")
    assert copy_store(quick / "data", empty_url, quick / "copy").files == 1


def test_a_backup_that_fails_leaves_nothing(
    store: Store, url: str | None, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnished(store)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            copy_store(store.data, url, quick / "copy")
    assert list(quick.iterdir()) == []
    DiskBlobs(store.data).remove("0" * 64)  # the lock is free again


def test_a_damaged_database_is_said(quick: Path) -> None:
    store = Store.open(quick / "data")
    for number in range(200):
        store.uploads.create("ann", f"{number}" * 200, "fine-tune", 1, "text")
    store.close()
    path = quick / "data" / "weft.db"
    whole = path.read_bytes()
    for damage in (whole[:9000] + b"\xff" * 4000 + whole[13000:], b"no database" * 1000):
        path.write_bytes(damage)
        with pytest.raises(DamageError, match=r"the database is damaged"):
            copy_store(quick / "data", None, quick / "copy")
    assert not (quick / "copy").exists()


def test_a_copy_is_brought_up_to_date_and_its_source_is_not(quick: Path) -> None:
    """A backup is what one takes before an update, so it must not be one."""
    store = Store.open(quick / "data")
    put_file(store)
    with store.ground.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE permissions")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    store.close()
    copy_store(quick / "data", None, quick / "copy")
    database = connect(quick / "data", None)
    with pytest.raises(UsageError, match="of another version"):
        migrate(database, allowed=False)
    database.close()
    copy = Store.open(quick / "copy")
    assert len(copy.files.list("ann").items) == 1 and copy.check(deep=True) == ()
    copy.close()


def test_two_backups_at_once_do_not_hinder_each_other(sqlite_store: Store, quick: Path) -> None:
    put_file(sqlite_store, b"kept")
    with backup.keeping(sqlite_store.data):
        copy_store(sqlite_store.data, None, quick / "copy")
        with pytest.raises(ResourceError, match=r"a backup is being taken\. It is removed later\."):
            DiskBlobs(sqlite_store.data).remove("0" * 64)
    DiskBlobs(sqlite_store.data).remove("0" * 64)
    assert adapter(sqlite_store)
