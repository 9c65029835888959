from __future__ import annotations

import hashlib

import pytest

from tests.serve.store.conftest import OpenStore
from tests.serve.store.scenes import lying
from weft.errors import NotThere, TooLarge, UsageError, WrongState
from weft.serve.records import Upload
from weft.serve.store import Store


def begin(store: Store, size: int, **also: int) -> Upload:
    return store.uploads.create("ann", "big.jsonl", "fine-tune", size, "text/jsonl", **also)


def test_parts_join_in_the_order_that_is_asked_for(store: Store) -> None:
    upload = begin(store, 9, expires_after=7200)
    late = store.uploads.add_part("ann", upload.id, [b"lo ", b"you"])
    early = store.uploads.add_part("ann", upload.id, [b"hel"])
    md5 = hashlib.md5(b"hello you").hexdigest().upper()
    done = store.uploads.complete("ann", upload.id, [early.id, late.id], md5)
    assert done.status == "completed" and done.file_id
    file = store.files.get("ann", done.file_id)
    assert store.blobs.open(file.sha256).read() == b"hello you"
    assert (file.filename, file.expires_at) == ("big.jsonl", file.created_at + 7200)
    assert lying(store.data / "blobs") == {file.sha256}
    assert store.check(deep=True) == ()


def test_a_part_may_be_named_twice_and_others_left_out(store: Store) -> None:
    upload = begin(store, 4)
    twice = store.uploads.add_part("ann", upload.id, [b"ab"])
    store.uploads.add_part("ann", upload.id, [b"unused"])
    done = store.uploads.complete("ann", upload.id, [twice.id, twice.id])
    assert store.blobs.open(store.files.get("ann", done.file_id or "").sha256).read() == b"abab"


def test_a_wrong_size_or_md5_is_said_and_the_upload_stays_open(store: Store) -> None:
    upload = begin(store, 3)
    part = store.uploads.add_part("ann", upload.id, [b"abc"])
    with pytest.raises(UsageError, match="6 bytes together, but 3 were announced"):
        store.uploads.complete("ann", upload.id, [part.id, part.id])
    with pytest.raises(UsageError, match="have the MD5 900150983cd24fb0d6963f7d28e17f72"):
        store.uploads.complete("ann", upload.id, [part.id], "0" * 32)
    with pytest.raises(NotThere, match="No such part"):
        store.uploads.complete("ann", upload.id, ["part_none"])
    assert store.files.list("ann").items == () and lying(store.data / "tmp") == set()
    assert store.uploads.complete("ann", upload.id, [part.id]).status == "completed"


def test_nothing_more_after_the_end(open_store: OpenStore) -> None:
    now = [1_800_000_000.0]
    store = open_store(clock=lambda: now[0])
    for end in ("complete", "cancel", "expire"):
        expect_ended(store, now, end)


def expect_ended(store: Store, now: list[float], end: str) -> None:
    upload = begin(store, 3)
    part = store.uploads.add_part("ann", upload.id, [b"abc"])
    if end == "complete":
        store.uploads.complete("ann", upload.id, [part.id])
    elif end == "cancel":
        assert store.uploads.cancel("ann", upload.id).status == "cancelled"
    else:
        now[0] += 3600
    state = {"complete": "completed", "cancel": "cancelled", "expire": "expired"}[end]
    assert store.uploads.get("ann", upload.id).status == state
    for call in (
        lambda: store.uploads.add_part("ann", upload.id, [b"x"]),
        lambda: store.uploads.complete("ann", upload.id, [part.id]),
        lambda: store.uploads.cancel("ann", upload.id),
    ):
        with pytest.raises(WrongState, match=f"is {state}, expected pending"):
            call()
    store.sweep()
    assert len(lying(store.data / "blobs")) == 1  # that of the completed one
    assert store.uploads.get("ann", upload.id).status == state


def test_foreign_uploads_are_not_there_and_parts_have_a_limit(store: Store) -> None:
    upload = begin(store, 3)
    with pytest.raises(NotThere, match="No such upload"):
        store.uploads.add_part("bob", upload.id, [b"x"])
    with pytest.raises(TooLarge):
        store.uploads.add_part("ann", upload.id, [b"x" * 11], limit=10)
    assert lying(store.data / "blobs") == set()
