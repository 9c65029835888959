from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.serve.store.conftest import OpenStore
from weft.errors import NotThere, UsageError
from weft.serve.keys import SCOPES, Keys
from weft.serve.store import Store


def test_a_key_opens_what_it_was_made_for(store: Store) -> None:
    assert not store.keys.exist()
    key, secret = store.keys.create("laptop", "ann", ["chat", "files", "chat"])
    assert (key.owner, key.name, key.scopes) == ("ann", "laptop", ("chat", "files"))
    assert re.fullmatch(r"weft-sk-[0-9A-Za-z]{8}-[0-9A-Za-z]{43}", secret) and secret.startswith(key.prefix + "-")
    assert store.keys.find(secret) == key and store.keys.exist()
    assert store.keys.create("all", "bob")[0].scopes == SCOPES


def test_nothing_but_the_very_key_opens(store: Store) -> None:
    _, secret = store.keys.create("laptop", "ann")
    _, other = store.keys.create("desk", "ann")
    wrong = [secret[:-1], secret + "x", secret.swapcase(), "", "weft-sk-", other[:17] + secret[17:], "\0", "é\ud800"]
    assert [text for text in wrong if store.keys.find(text)] == []


def test_expired_and_revoked_keys_open_nothing_any_more(open_store: OpenStore) -> None:
    now = [1_800_000_000.0]
    store = open_store(clock=lambda: now[0])
    brief, secret = store.keys.create("brief", "ann", expires_at=1_800_000_060)
    lasting, other = store.keys.create("lasting", "ann")
    now[0] += 59
    assert store.keys.find(secret) == brief
    now[0] += 1
    assert store.keys.find(secret) is None
    assert store.keys.revoke(lasting.prefix).revoked_at == 1_800_000_060
    assert store.keys.find(other) is None
    now[0] += 10
    assert store.keys.revoke(lasting.id).revoked_at == 1_800_000_060, "again changes nothing"
    assert store.keys.exist(), "a server that had keys does not open itself again"
    with pytest.raises(NotThere, match="No such key: nobody"):
        store.keys.revoke("nobody")


def test_a_key_revoked_by_another_program_ends_within_a_second(open_store: OpenStore, database_url: str | None) -> None:
    """T40: `weft keys` beside a running server."""
    store = open_store()
    beside = Keys.open(store.data, database_url)
    key, secret = beside.create("laptop", "ann")
    assert store.keys.find(secret) == key
    beside.revoke(key.id)
    began = time.monotonic()
    while store.keys.find(secret):
        assert time.monotonic() - began < 1.0
    beside.close()


def test_when_a_key_was_last_used_is_written_at_most_once_a_minute(open_store: OpenStore) -> None:
    now = [1_800_000_000.0]
    store = open_store(clock=lambda: now[0])
    _, secret = store.keys.create("laptop", "ann")
    for _ in range(5):
        now[0] += 10
        store.keys.find(secret)
    assert store.keys.list()[0].last_used_at is None
    now[0] += 10
    store.keys.find(secret)
    assert store.keys.list()[0].last_used_at == 1_800_000_060
    now[0] += 5
    store.keys.find(secret)
    store.close()
    assert open_store(clock=lambda: now[0]).keys.list()[0].last_used_at == 1_800_000_065


def test_what_makes_no_key_is_named(store: Store) -> None:
    with pytest.raises(UsageError, match="scopes rule, all: expected some of files, jobs, models, chat, admin"):
        store.keys.create("x", "ann", ["rule", "chat", "all"])
    with pytest.raises(UsageError, match="scopes none"):
        store.keys.create("x", "ann", [])
    with pytest.raises(UsageError, match="owner 'Ann Lee': expected 1 to 64 lower-case letters"):
        store.keys.create("x", "Ann Lee")
    with pytest.raises(UsageError, match="lies in the past"):
        store.keys.create("x", "ann", expires_at=5)
    assert not store.keys.exist()


def test_lists_keep_to_an_owner(store: Store) -> None:
    ann, bob = store.keys.create("a", "ann")[0], store.keys.create("b", "bob")[0]
    assert store.keys.list() == (ann, bob) and store.keys.list("bob") == (bob,)


def search(folder: Path, count: int) -> None:
    """T40, the store's part: no secret lies anywhere in the folder, in the database, or in a record."""
    store = Store.open(folder)
    secrets = [store.keys.create(f"key {number}", "ann")[1] for number in range(count)]
    for secret in secrets:
        store.keys.find(secret)
        store.keys.find(secret[:-1] + ("a" if secret[-1] != "a" else "b"))
    shown = repr(store.keys.list())
    store.close()
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"weft-sk-" in content, "the readable beginnings are there: the search looks at the right place"
    parts = [secret.split("-")[3] for secret in secrets]
    assert [part for part in parts if part.encode() in content or part in shown] == []
    assert len(set(parts)) == count


def test_no_secret_lies_in_the_data_folder(quick: Path) -> None:
    search(quick / "data", 50)


@pytest.mark.slow
def test_none_of_a_thousand_secrets_lies_in_the_data_folder(quick: Path) -> None:
    search(quick / "data", 1000)
