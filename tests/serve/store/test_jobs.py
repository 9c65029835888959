from __future__ import annotations

import threading

import pytest

from tests.serve.store.scenes import adapter, draft, finish, messages, new_job, put_file, start
from weft.errors import Conflict, DamageError, NotThere, UsageError, WrongState
from weft.serve.leases import Leases
from weft.serve.records import Job
from weft.serve.store import Store


def test_a_new_job_is_validating_and_says_so(store: Store) -> None:
    training, validation = put_file(store), put_file(store)
    job = store.jobs.create("ann", draft(training, validation_file=validation.id, suffix="x", metadata={"a": "b"}))
    assert (job.status, job.attempt, job.result_files, job.metadata) == ("validating_files", 0, (), {"a": "b"})
    assert store.jobs.get("ann", job.id) == job
    assert messages(store, job) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {training.id} and validation file: {validation.id}",
    ]


def test_a_job_cannot_use_what_is_not_its_owners(store: Store) -> None:
    file = put_file(store, owner="bob")
    with pytest.raises(NotThere, match=file.id):
        store.jobs.create("ann", draft(file))
    with pytest.raises(NotThere, match="No such model: nano"):
        store.jobs.create("bob", draft(file, start_from="0" * 64))
    assert store.jobs.list("bob").items == ()


def test_a_foreign_job_is_not_there(store: Store) -> None:
    job = new_job(store)
    for call in (
        lambda: store.jobs.get("bob", job.id),
        lambda: store.jobs.events("bob", job.id),
        lambda: store.jobs.events_since("bob", job.id, 0),
        lambda: store.jobs.checkpoints("bob", job.id),
        lambda: store.jobs.wish("bob", job.id, "cancel"),
        lambda: store.jobs.resume("bob", job.id),
    ):
        with pytest.raises(NotThere, match="No such job"):
            call()


def test_one_key_sent_twenty_times_at_once_makes_one_job(store: Store) -> None:
    """T16."""
    file = put_file(store)
    made: list[Job] = []
    gate = threading.Barrier(20)

    def send() -> None:
        gate.wait()
        made.append(store.jobs.create("ann", draft(file), "key", "body"))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 20 and len({job.id for job in made}) == 1
    assert len(store.jobs.list("ann").items) == 1 and store.check() == ()
    with pytest.raises(Conflict, match="'key' was used before with another body"):
        store.jobs.create("ann", draft(file), "key", "another body")
    with pytest.raises(Conflict):
        store.jobs.known("ann", "key", "another body")
    assert store.jobs.known("ann", "key", "body") == made[0]
    assert store.jobs.known("bob", "key", "body") is None


def test_lists_are_filtered_by_metadata(store: Store) -> None:
    plain = new_job(store)
    red = new_job(store, metadata={"team": "a b", "colour": "red", "é\0": ""})
    blue = new_job(store, metadata={"team": "a b", "colour": "blue"})

    def ids(**filters: object) -> list[str]:
        return [job.id for job in store.jobs.list("ann", **filters).items]  # type: ignore[arg-type]

    assert ids() == [blue.id, red.id, plain.id]
    assert ids(metadata={"team": "a b"}) == [blue.id, red.id]
    assert ids(metadata={"team": "a b", "colour": "red"}) == [red.id]
    assert ids(metadata={"é\0": ""}) == [red.id]
    assert ids(metadata={"team": ""}) == []
    assert ids(without_metadata=True) == [plain.id]


def test_events_come_newest_first_page_by_page_each_once(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    held, attempt = start(leases)
    seen, after = [], None
    while True:
        page = store.jobs.events("ann", job.id, after=after, limit=1)
        seen += [event.number for event in page.items]
        if not page.has_more:
            break
        after = page.items[-1].id
        leases.event(held.id, attempt, "info", "new meanwhile")
    assert seen == [4, 3, 2, 1]
    numbers = [event.number for event in store.jobs.events_since("ann", job.id, 4)]
    assert numbers == [5, 6, 7]


def test_a_wish_is_heard_at_once_where_no_worker_holds_the_job(store: Store) -> None:
    job = new_job(store)
    assert store.jobs.wish("ann", job.id, "pause").status == "paused"
    with pytest.raises(WrongState, match="is paused: there is nothing to pause"):
        store.jobs.wish("ann", job.id, "pause")
    assert store.jobs.resume("ann", job.id).status == "validating_files"  # its files were never looked at
    with pytest.raises(WrongState, match="only a paused job can be resumed"):
        store.jobs.resume("ann", job.id)
    ended = store.jobs.wish("ann", job.id, "cancel")
    assert ended.status == "cancelled" and ended.finished_at
    with pytest.raises(WrongState, match="is cancelled: there is nothing to cancel") as refused:
        store.jobs.wish("ann", job.id, "cancel")
    assert refused.value.state == "cancelled"
    assert messages(store, job)[2:] == ["The job was paused", "The job was resumed", "The job was cancelled"]


def test_active_counts_what_waits_or_runs(store: Store) -> None:
    jobs = [new_job(store) for _ in range(3)]
    new_job(store, owner="bob")
    start(Leases(store))
    assert store.jobs.active("ann") == 3
    store.jobs.wish("ann", jobs[1].id, "pause")
    store.jobs.wish("ann", jobs[2].id, "cancel")
    assert store.jobs.active("ann") == 1
    assert store.jobs.counts() == {"running": 1, "paused": 1, "cancelled": 1, "validating_files": 1}


def test_a_model_answers_until_it_is_deleted_and_its_adapter_goes_with_its_last_name(store: Store) -> None:
    leases = Leases(store)
    new_job(store, suffix="My Model: v1/2")
    job, attempt = start(leases)
    done = finish(store, leases, job, attempt, step=3)
    name = done.fine_tuned_model or ""
    assert name.startswith("ft:weft-nano:weft:My-Model-v1-2:") and len(name.rsplit(":", 1)[1]) == 8
    model = store.models.get("ann", name)
    with pytest.raises(NotThere, match="No such model"):
        store.models.get("bob", name)
    with pytest.raises(NotThere):
        store.models.delete("bob", name)
    next_job = new_job(store, start_from=model.adapter)
    store.models.delete("ann", name)
    assert store.models.list("ann") == () and store.jobs.checkpoints("ann", job.id).items == ()
    assert store.blobs.adapter(model.adapter).is_dir()  # a job goes on from it
    store.jobs.wish("ann", next_job.id, "cancel")
    assert not store.blobs.adapter(model.adapter).exists() and store.check(deep=True) == ()


def test_an_adapter_is_copied_without_following_links(store: Store) -> None:
    identity = adapter(store)
    folder = store.data / "work" / "adapter"
    assert adapter(store) == identity
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(DamageError, match=r"adapter_model\.safetensors: not a readable file"):
        store.blobs.adopt_adapter(folder)
    assert list((store.data / "tmp").iterdir()) == []


def test_what_json_has_no_word_for_is_refused(store: Store) -> None:
    new_job(store)
    leases = Leases(store)
    job, attempt = start(leases)
    with pytest.raises(UsageError, match="not finite"):
        leases.event(job.id, attempt, "info", "Step 1", "metrics", {"step": 1, "train_loss": float("nan")})
    assert len(messages(store, job)) == 4
