from __future__ import annotations

import hashlib
import threading

import pytest

from tests.serve.store.conftest import OpenStore
from tests.serve.store.scenes import lying, new_job, put_file
from weft.errors import DamageError, NotThere, TooLarge
from weft.serve.store import Store


def test_a_file_comes_back_as_it_was_put(store: Store) -> None:
    file = put_file(store, b"one\ntwo\n")
    assert file.sha256 == hashlib.sha256(b"one\ntwo\n").hexdigest() and file.bytes == 8
    assert store.files.get("ann", file.id) == file
    with store.blobs.open(file.sha256) as handle:
        assert handle.read() == b"one\ntwo\n"


def test_any_name_is_a_label_and_comes_back_unchanged(store: Store) -> None:
    for name in ("../../etc/passwd", "a\0b", "\ud800", 'q"\\u0041\\', "✂.jsonl", "", "x" * 5000):
        file = put_file(store, filename=name)
        assert store.files.get("ann", file.id).filename == name
        assert lying(store.data / "blobs") == {file.sha256}


def test_an_unknown_id_is_not_there_whatever_it_is(store: Store) -> None:
    for id in ("file-nothing", "a\0b", "\ud800", "../x"):
        with pytest.raises(NotThere, match="No such file"):
            store.files.get("ann", id)
        with pytest.raises(NotThere, match="No such file"):
            store.files.list("ann", after=id)


def test_a_foreign_file_is_not_there(store: Store) -> None:
    file = put_file(store, owner="ann")
    for call in (store.files.get, store.files.delete):
        with pytest.raises(NotThere):
            call("bob", file.id)
    assert store.files.list("bob").items == ()
    assert store.files.get("ann", file.id) == file


def test_pages_give_every_file_once_while_new_ones_come_and_shown_ones_go(store: Store) -> None:
    made = [put_file(store, b"%d" % number).id for number in range(7)]
    seen, after = [], None
    while True:
        page = store.files.list("ann", after=after, limit=2)
        seen += [file.id for file in page.items]
        if not page.has_more:
            break
        put_file(store)  # newest first: belongs before the first page
        after = seen[-1]
        store.files.delete("ann", after)
    assert seen == made[::-1]
    assert [file.id for file in store.files.list("ann", order="asc", limit=2).items] == [made[0], made[2]]


def test_lists_keep_to_a_purpose(store: Store) -> None:
    put_file(store, purpose="batch")
    wanted = put_file(store, purpose="evals")
    assert store.files.list("ann", purpose="evals").items == (wanted,)


def test_equal_content_lies_once_and_goes_with_its_last_file(store: Store) -> None:
    first, second = put_file(store, b"same"), put_file(store, b"same", owner="bob")
    assert lying(store.data / "blobs") == {first.sha256}
    store.files.delete("ann", first.id)
    assert lying(store.data / "blobs") == {first.sha256}
    store.files.delete("bob", second.id)
    assert lying(store.data / "blobs") == set()


def test_content_that_is_being_named_survives_the_deletion_of_its_twin(store: Store) -> None:
    first = put_file(store, b"same")
    sha256, size = store.blobs.put([b"same"], 10)
    store.files.delete("ann", first.id)
    store.sweep()
    again = store.files.create("ann", "b", "fine-tune", sha256, size)
    store.blobs.verify(again.sha256)
    store.files.delete("ann", again.id)
    assert lying(store.data / "blobs") == set()


def test_content_that_was_refused_after_all_is_discarded(store: Store) -> None:
    sha256, _ = store.blobs.put([b"not json"], 10)
    store.discard(sha256)
    assert lying(store.data / "blobs") == set()


def test_a_job_keeps_what_it_learns_from_until_it_has_ended(store: Store) -> None:
    job = new_job(store)
    store.files.delete("ann", job.training_file)
    assert len(lying(store.data / "blobs")) == 1
    store.jobs.wish("ann", job.id, "cancel")
    assert lying(store.data / "blobs") == set()


def test_expired_files_are_gone_at_once_and_swept_later(open_store: OpenStore) -> None:
    now = [1_800_000_000.0]
    store = open_store(clock=lambda: now[0])
    file = put_file(store, expires_after=3600)
    assert file.expires_at == 1_800_003_600
    now[0] += 3600
    with pytest.raises(NotThere):
        store.files.get("ann", file.id)
    assert store.files.list("ann").items == ()
    assert store.sweep() == 1 and lying(store.data / "blobs") == set()


def test_one_byte_too_many_is_refused_and_nothing_stays(store: Store) -> None:
    store.blobs.put([b"12345", b"67890"], 10)
    with pytest.raises(TooLarge, match="Send at most 10") as refused:
        store.blobs.put([b"12345", b"67890", b"x"], 10)
    assert refused.value.limit == 10 and lying(store.data / "tmp") == set()


def test_a_broken_stream_leaves_nothing(store: Store) -> None:
    def broken():
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        store.blobs.put(broken(), 100, expected=50)
    assert lying(store.data / "tmp") == lying(store.data / "blobs") == set()


def test_room_is_reserved_for_a_known_size_and_given_back(store: Store) -> None:
    sha256, size = store.blobs.put([b"short"], 1 << 20, expected=1 << 20)
    assert (size, store.blobs.path(sha256).stat().st_size) == (5, 5)


def test_damaged_content_is_not_handed_out_and_mended_by_the_same_upload(store: Store) -> None:
    file = put_file(store, b"whole")
    store.blobs.path(file.sha256).write_bytes(b"whale")
    with pytest.raises(DamageError, match="hashes to"):
        store.blobs.open(file.sha256)
    put_file(store, b"whole")
    assert store.blobs.open(file.sha256).read() == b"whole"


def test_status_is_set_with_its_details(store: Store) -> None:
    file = put_file(store, status="uploaded")
    store.files.set_status("ann", file.id, "error", "line 3")
    found = store.files.get("ann", file.id)
    assert (found.status, found.status_details) == ("error", "line 3")


def test_many_threads_putting_and_deleting_equal_content_lose_nothing(store: Store) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(8):
                file = put_file(store, b"shared")
                store.blobs.verify(file.sha256)
                store.files.delete("ann", file.id)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and store.check(deep=True) == () and lying(store.data / "blobs") == set()
