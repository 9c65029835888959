"""How the database is opened: T4, T6 in short, who may open what; and T7, connections cut under load."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from sqlalchemy.types import TypeDecorator, TypeEngine

from tests.serve.store.conftest import OpenStore, empty, wipe
from tests.serve.store.scenes import draft, finish, messages, new_job, put_file, start
from weft.errors import DamageError, ResourceError, Superseded, UsageError
from weft.serve.leases import Leases
from weft.serve.records import FINAL
from weft.serve.store import Store
from weft.serve.store.database import connect, journal_mode
from weft.serve.store.migrate import migrate
from weft.serve.store.mounts import remote_kind
from weft.serve.store.schema import Id, files, metadata


def test_the_write_ahead_log_is_used_only_where_sqlite_keeps_it_whole() -> None:
    good = [(3, 51, 3), (3, 52, 0), (4, 0, 0), (3, 50, 7), (3, 50, 9), (3, 44, 6), (3, 44, 7)]
    bad = [(3, 51, 2), (3, 51, 0), (3, 50, 6), (3, 49, 2), (3, 45, 0), (3, 44, 5), (3, 40, 1), (3, 7, 0)]
    assert [journal_mode(version) for version in good] == ["WAL"] * len(good)
    assert [journal_mode(version) for version in bad] == ["TRUNCATE"] * len(bad)


def test_sqlite_is_opened_for_durable_commits(sqlite_store: Store) -> None:
    with sqlite_store.ground.database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert str(found.pop("journal_mode")).upper() == journal_mode()
    assert found == {"synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_postgresql_is_opened_for_durable_commits(postgresql_store: Store) -> None:
    with postgresql_store.ground.database.read() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_the_data_folder_is_its_owners_alone(quick: Path) -> None:
    store = Store.open(quick / "data")
    file = put_file(store)
    paths = [store.data, *store.data.iterdir(), store.blobs.path(file.sha256)]
    loose = [path.name for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077 and path.name != "store.json"]
    store.close()
    assert loose == []


WRITER = """
import sqlite3, sys
from pathlib import Path
from weft.serve.keys import Keys
keys = Keys.open(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    keys.create(f"key {number}", "ann")
keys.close()
"""


def write_from_clients(store: Store, clients: int, each: int) -> None:
    """Half of the writers are threads of the server, half are `weft keys` beside it; reads go on meanwhile."""
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(each):
                store.uploads.create("ann", str(number), "fine-tune", 1, "text")
                store.jobs.counts()
        except BaseException as error:
            failed.append(error)

    command = [sys.executable, "-c", WRITER, str(store.data), str(each)]
    others = [subprocess.Popen(command) for _ in range(clients // 2)]
    threads = [threading.Thread(target=write) for _ in range(clients - clients // 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0] * len(others) and failed == []
    assert len(store.keys.list()) == each * (clients // 2)
    assert store.check(deep=True) == ()


def test_writers_of_two_processes_wait_for_each_other(quick: Path) -> None:
    """T4 in short."""
    store = Store.open(quick / "data")
    write_from_clients(store, clients=2, each=25)
    store.close()


@pytest.mark.slow
def test_ten_thousand_writes_of_four_clients_and_none_is_told_locked(quick: Path) -> None:
    store = Store.open(quick / "data")
    write_from_clients(store, clients=4, each=2500)
    store.close()


def test_the_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    with store.ground.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": differs})
        assert compare_metadata(context, metadata) == []


def test_postgresql_sorts_ids_by_their_bytes(postgresql_store: Store) -> None:
    query = "SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_schema='public'"
    with postgresql_store.ground.database.read() as connection:
        found = {(table, column): collation for table, column, collation in connection.exec_driver_sql(query)}
    ids = [
        (table.name, column.name) for table in metadata.tables.values() for column in table.c if type(column.type) is Id
    ]
    assert len(ids) > 10 and {found[name] for name in ids} == {"C"}


def differs(context: MigrationContext, _: object, __: object, there: TypeEngine, known: TypeEngine) -> bool:
    """Whether the two are other kinds of value; a column of our own kinds is one of what it stores."""
    stored = known.impl_instance if isinstance(known, TypeDecorator) else known
    return there._type_affinity is not stored._type_affinity


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_a_migration_that_is_cut_off_leaves_nothing_and_is_repeated(quick: Path, every: int) -> None:
    """T6: cut before each statement of the migrations, or before some."""
    from sqlalchemy import event

    class Cut(Exception):
        pass

    point, cuts = -every, 0
    while cuts == (point + every) // every:  # until all statements have run
        point += every
        data = quick / str(point)
        data.mkdir()
        database = connect(data, None)
        left = [point]

        def cut(connection, cursor, statement, *rest, left=left) -> None:
            if statement.lstrip().startswith(("CREATE", "INSERT")):
                if not left[0]:
                    raise Cut
                left[0] -= 1

        event.listen(database.engine, "before_cursor_execute", cut)
        try:
            migrate(database)
        except Cut:
            cuts += 1
            tables = sqlite3.connect(data / "weft.db").execute("SELECT name FROM sqlite_master").fetchall()
            assert tables == []
        event.remove(database.engine, "before_cursor_execute", cut)
        migrate(database)
        with database.read() as connection:
            assert connection.execute(select(files)).all() == []
        database.close()
    print(f"T6: {cuts} points")
    assert cuts >= 25 // every


def test_a_schema_of_a_newer_weft_is_refused(open_store: OpenStore, database_url: str | None, quick: Path) -> None:
    store = open_store()
    with store.ground.database.write() as connection:
        known = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    try:
        with pytest.raises(UsageError, match=r"written by a newer weft \(schema 9999\)"):
            open_store()
    finally:
        database = connect(quick / "data", database_url)
        with database.write() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{known}'")
        database.close()


def test_a_second_server_on_the_folder_is_refused(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.serve.store.folder._PATIENCE_SECONDS", 0.1)
    first = Store.open(quick / "data")
    with pytest.raises(UsageError, match="another `weft serve` is working here"):
        Store.open(quick / "data")
    first.close()
    Store.open(quick / "data").close()


def test_a_folder_is_not_opened_with_another_database(quick: Path) -> None:
    store = Store.open(quick / "data")
    file = put_file(store)
    store.close()
    (quick / "data" / "weft.db").rename(quick / "kept.db")
    with pytest.raises(UsageError, match="belongs to another database"):
        Store.open(quick / "data")
    (quick / "kept.db").rename(quick / "data" / "weft.db")
    again = Store.open(quick / "data")
    again.blobs.verify(file.sha256)
    again.close()
    (quick / "data" / "store.json").write_text("{")
    with pytest.raises(DamageError, match=r"store\.json: unreadable"):
        Store.open(quick / "data")


def test_what_cannot_be_opened_is_named(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("mysql://x/y", "nonsense", "sqlite:///x.db"):
        with pytest.raises(UsageError, match="expected postgresql://USER@HOST/NAME"):
            Store.open(quick / "data", url)
    with pytest.raises(ResourceError, match="the database does not answer") as refused:
        Store.open(quick / "data", f"postgresql://me:secret@/x?host={quick}")
    assert "secret" not in str(refused.value)
    (quick / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        Store.open(quick / "file")
    with pytest.raises(UsageError, match="organisation 'a:b': expected 1 to 64 lower-case letters"):
        Store.open(quick / "data", organisation="a:b")
    Store.open(quick / "data").close()  # none of them kept the folder
    with open(quick / "data" / "weft.db", "r+b") as handle:
        handle.write(b"not a database at all")
    with pytest.raises(DamageError, match="the database is damaged"):
        Store.open(quick / "data")


def test_a_user_or_database_that_is_not_there_is_told_from_a_server_that_does_not_answer(
    quick: Path, postgres_url: str
) -> None:
    for url in (postgres_url.replace("/postgres?", "/nowhere?"), postgres_url.replace("weft@", "nobody@")):
        with pytest.raises(ResourceError, match=r"lets nobody in by this URL .*\. See that user and database exist"):
            Store.open(quick / "data", url)


def test_a_url_may_begin_as_many_hosts_of_databases_write_it(quick: Path, postgres_url: str) -> None:
    wipe(postgres_url)
    store = Store.open(quick / "data", postgres_url.replace("postgresql:", "postgres:"))
    assert not store.ground.database.is_sqlite
    store.close()
    with pytest.raises(ResourceError, match=r"postgresql://127\.0\.0\.1:1/weft: the database does not answer"):
        Store.open(quick / "data", "postgres://weft@127.0.0.1:1/weft")


def cut_connections(store: Store, cuts: int) -> None:
    """T7: jobs are made and worked on while every connection to the server is cut now and then."""
    empty(store)
    done = threading.Event()

    def cut() -> None:
        for _ in range(cuts):
            time.sleep(0.15)
            try:
                with store.ground.database.read() as connection:
                    connection.exec_driver_sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            except ResourceError:
                pass
        done.set()

    def again(call):
        """As a client with an Idempotency-Key does: until it is answered."""
        while True:
            try:
                return call()
            except ResourceError as error:
                assert "does not answer" in str(error)

    cutter = threading.Thread(target=cut)
    leases = Leases(store, seconds=0.5, crashes=1000)
    file = put_file(store)
    cutter.start()
    made = []
    while not done.is_set():
        key = f"key {len(made)}"
        made.append(again(lambda key=key: store.jobs.create("ann", draft(file), key, "body")))
        try:
            job, attempt = start(leases)
            leases.event(job.id, attempt, "info", "Step 1", "metrics", {"step": 1})
            finish(store, leases, job, attempt, step=1)
        except (ResourceError, Superseded, AssertionError):
            pass
        again(leases.expire)
    cutter.join()
    while store.jobs.active("ann"):
        leases.expire()
        lease = leases.take("w")
        if lease is None:
            time.sleep(0.05)
        elif lease.phase == "validate":
            leases.validated(lease.job.id, lease.attempt)
        else:
            finish(store, leases, lease.job, lease.attempt, step=1)
    assert len({job.id for job in made}) == len(made) == len(store.jobs.list("ann", limit=10_000).items)
    for job in made:
        assert store.jobs.get("ann", job.id).status in FINAL
        assert messages(store, job).count("The job has successfully completed") == 1
    assert store.check(deep=True) == ()


def test_cut_connections_lose_and_double_nothing(postgresql_store: Store) -> None:
    cut_connections(postgresql_store, cuts=3)


@pytest.mark.slow
def test_fifty_cut_connections_lose_and_double_nothing(postgresql_store: Store) -> None:
    cut_connections(postgresql_store, cuts=50)


def test_a_network_disk_is_refused_for_sqlite(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:50 / /mnt/far\\040away rw,relatime shared:1 - nfs4 host:/x rw\n"
        "3 2 8:2 / /mnt/far\\040away/near rw - ext4 /dev/b rw\n"
    )
    assert remote_kind(Path("/mnt/far away/data"), table) == "nfs4"
    assert remote_kind(Path("/mnt/far away/near/data"), table) is None
    assert remote_kind(Path("/mnt/far"), table) is None and remote_kind(quick) is None
    monkeypatch.setattr("weft.serve.store.database.remote_kind", lambda folder: "cifs")
    with pytest.raises(UsageError, match=r"lies on a network disk \(cifs\), where SQLite can lose data"):
        Store.open(quick / "data")


def test_a_full_database_disk_is_said(quick: Path) -> None:
    store = Store.open(quick / "data")
    with store.ground.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ResourceError, match="the disk is full"):
        for _ in range(200):
            new_job(store, metadata={"k": "x" * 512})
    found = store.jobs.list("ann", limit=1000).items
    assert all(len(messages(store, job)) == 2 for job in found)
    store.close()
    again = Store.open(quick / "data")
    assert again.check(deep=True) == () and os.path.exists(again.data)
    again.close()
