"""T3: seeded damages, each named; a clean store, nothing named."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.store.scenes import adapter, finish, new_job, put_file, start
from weft.serve.leases import Leases
from weft.serve.records import File
from weft.serve.store import Store
from weft.serve.store.schema import checkpoints, events, files, jobs, models, parts


def furnished(store: Store) -> File:
    """A store with something of everything."""
    new_job(store)
    leases = Leases(store)
    job, attempt = start(leases)
    leases.checkpoint(job.id, attempt, 1, {}, adapter(store, b"one"))
    finish(store, leases, job, attempt, b"two", step=2)
    upload = store.uploads.create("ann", "b", "fine-tune", 4, "text")
    store.uploads.add_part("ann", upload.id, [b"part"])
    shutil.rmtree(store.data / "work" / "adapter")
    return put_file(store, b"a file of its own")


def rows(store: Store, statement: object) -> None:
    """Change rows behind the store's back, pointers unchecked."""
    with store.ground.database.engine.connect() as connection:
        if store.ground.database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql("SET session_replication_role = replica")
        connection.execute(statement)  # type: ignore[call-overload]
        connection.commit()
        if store.ground.database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql("SET session_replication_role = origin")
            connection.commit()


def old_leftover(store: Store, file: File) -> None:
    path = store.data / "tmp" / "half"
    path.write_bytes(b"ha")
    os.utime(path, (time.time() - 7200, time.time() - 7200))


def one_adapter(store: Store) -> Path:
    return store.blobs.adapter(store.models.list("ann")[0].adapter)


DAMAGES: dict[str, tuple[str, Callable[[Store, File], object]]] = {
    "a file's content is gone": ("missing content", lambda s, f: s.blobs.path(f.sha256).unlink()),
    "a file's content is cut": ("wrong content", lambda s, f: os.truncate(s.blobs.path(f.sha256), 3)),
    "a byte of a file differs": (
        "wrong content",
        lambda s, f: s.blobs.path(f.sha256).write_bytes(b"A file of its own"),
    ),
    "content that no row names": ("stray", lambda s, f: (s.data / "blobs" / ("0" * 64)).write_bytes(b"")),
    "a foreign thing in the folder": ("stray", lambda s, f: (s.data / "notes.txt").write_bytes(b"")),
    "something half written": ("leftover", old_leftover),
    "an adapter is gone": ("missing adapter", lambda s, f: shutil.rmtree(one_adapter(s))),
    "an adapter's weights differ": (
        "wrong adapter",
        lambda s, f: (one_adapter(s) / "adapter_model.safetensors").write_bytes(b"other"),
    ),
    "an adapter lacks a file": ("wrong adapter", lambda s, f: (one_adapter(s) / "adapter_config.json").unlink()),
    "a checkpoint of no job": (
        "row points nowhere",
        lambda s, f: rows(s, checkpoints.update().values(job_id="ftjob-none").where(checkpoints.c.step == 1)),
    ),
    "a checkpoint whose model is gone": (
        "row points nowhere",
        lambda s, f: rows(s, models.delete().where(models.c.id.like("%ckpt%"))),
    ),
    "a part of no upload": ("row points nowhere", lambda s, f: rows(s, parts.update().values(upload_id="upload_none"))),
    "an event is gone": ("missing events", lambda s, f: rows(s, events.delete().where(events.c.number == 2))),
    "a job that ended never": ("impossible state", lambda s, f: rows(s, jobs.update().values(finished_at=None))),
    "a file whose hash is no hash": ("wrong content", lambda s, f: rows(s, files.update().values(sha256="../x"))),
}


def test_each_damage_is_named(store: Store) -> None:
    from tests.serve.store.conftest import empty

    missed = []
    for name, (kind, damage) in DAMAGES.items():
        empty(store)
        (store.data / "notes.txt").unlink(missing_ok=True)
        file = furnished(store)
        assert store.check(deep=True) == (), "clean before"
        damage(store, file)
        found = [damage.kind for damage in store.check(deep=True)]
        missed += [] if kind in found else [(name, found)]
    (store.data / "notes.txt").unlink(missing_ok=True)
    assert missed == []


def test_a_quick_look_finds_what_is_gone_or_cut(sqlite_store: Store) -> None:
    from tests.serve.store.conftest import empty

    for name in ("a file's content is gone", "a file's content is cut", "an adapter is gone"):
        empty(sqlite_store)
        kind, damage = DAMAGES[name]
        damage(sqlite_store, furnished(sqlite_store))
        assert [damage.kind for damage in sqlite_store.check()] == [kind]
    empty(sqlite_store)


def test_a_damaged_database_is_named(quick: Path) -> None:
    store = Store.open(quick / "data")
    for _ in range(20):
        furnished(store)
    store.close()
    path = quick / "data" / "weft.db"
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)
    try:
        store = Store.open(quick / "data", mend=False)
    except Exception as error:
        assert "damaged" in str(error)
        return
    assert "database" in {damage.kind for damage in store.check(deep=True)}
    store.close()


def test_what_is_being_named_is_no_stray(sqlite_store: Store) -> None:
    from tests.serve.store.conftest import empty

    empty(sqlite_store)
    sqlite_store.blobs.put([b"soon"], 10)
    assert sqlite_store.check(deep=True) == ()


def test_opening_without_mending_leaves_what_a_crash_left_to_be_named(quick: Path) -> None:
    store = Store.open(quick / "data")
    new_job(store)
    Leases(store).take("w")
    store.close()
    (quick / "data" / "blobs" / ("0" * 64)).write_bytes(b"")
    looking = Store.open(quick / "data", mend=False)
    assert [damage.kind for damage in looking.check()] == ["stray"]
    looking.close()
    mended = Store.open(quick / "data")
    assert mended.check() == ()
    mended.close()


@pytest.mark.slow
def test_a_clean_store_of_a_thousand_objects_has_no_damage_and_is_read_within_a_minute(store: Store) -> None:
    for number in range(1000):
        put_file(store, b"%d" % number)
    began = time.process_time()
    assert store.check(deep=True) == ()
    assert time.process_time() - began < 60
