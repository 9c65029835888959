"""The store's tests run on SQLite and, word for word, on a PostgreSQL server on a temporary folder and socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from weft.serve.store import Store
from weft.serve.store.database import connect
from weft.serve.store.folder import FOLDERS
from weft.serve.store.pins import Pins
from weft.serve.store.schema import metadata

OpenStore = Callable[..., Store]
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where an fsync costs nothing; on a disk it may cost what a whole test may."""


@pytest.fixture
def quick() -> Iterator[Path]:
    """A new folder, in memory where the system has such."""
    folder = tempfile.mkdtemp(prefix="weft-", dir=MEMORY)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite, or the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        return None
    url = request.getfixturevalue("postgres_url")
    wipe(url)
    return url


@pytest.fixture
def open_store(quick: Path, database_url: str | None) -> Iterator[OpenStore]:
    """Opens the store of this test, and again once it was closed."""
    opened: list[Store] = []

    def open_it(**options: object) -> Store:
        store = Store.open(quick / "data", database_url, **options)  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store; the same one for all tests, since opening costs more than most of them."""
    store = request.getfixturevalue(f"{request.param}_store")
    empty(store)
    return store


@pytest.fixture(scope="session")
def sqlite_store() -> Iterator[Store]:
    yield from lasting(None)


@pytest.fixture(scope="session")
def postgresql_store(postgres_url: str) -> Iterator[Store]:
    url = f"{postgres_url}&dbname=lasting"
    database = connect(Path("."), postgres_url)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE DATABASE lasting")
    database.close()
    yield from lasting(url)


def lasting(url: str | None) -> Iterator[Store]:
    folder = tempfile.mkdtemp(prefix="weft-", dir=MEMORY)
    store = Store.open(Path(folder) / "data", url)
    yield store
    store.close()
    shutil.rmtree(folder, ignore_errors=True)


def empty(store: Store) -> None:
    """Forget all that a test has left."""
    with store.ground.database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.name != "store":
                connection.execute(table.delete())
    store.blobs.pins = Pins()
    for name in FOLDERS:
        shutil.rmtree(store.data / name)
        (store.data / name).mkdir()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this session, on a Unix socket alone."""
    binaries = _binaries()
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    place = tempfile.mkdtemp(prefix="weft-pg-", dir=MEMORY)
    settings = {"listen_addresses": "", "unix_socket_directories": place, "fsync": "off", "max_connections": "120"}
    told = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    control = [f"{binaries}/pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log"]

    def run(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"PostgreSQL cannot be started here: {(done.stderr or done.stdout)[-500:]}")

    try:
        if user:
            shutil.chown(place, user)
        run(f"{binaries}/initdb", "-D", f"{place}/data", "-U", "weft", "-A", "trust", "-E", "UTF8", "--no-sync")
        run(*control, "-o", told, "start")
        yield f"postgresql://weft@/postgres?host={place}"
    finally:
        with contextlib.suppress(OSError, LookupError):
            subprocess.run(
                [*control, "-m", "immediate", "stop"], user=user, cwd=place, capture_output=True, check=False
            )
        shutil.rmtree(place, ignore_errors=True)


def _binaries() -> Path:
    """Where `initdb` is: on the path, or where Debian puts it."""
    found = shutil.which("initdb")
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not places:
        pytest.skip("needs a PostgreSQL server (Debian: apt-get install postgresql)")
    return places[-1].parent


def wipe(url: str) -> None:
    """Leave no row in the database."""
    database = connect(Path("."), url)
    with database.write() as connection:
        if inspect(connection).has_table("store"):
            connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)}")
    database.close()
