from __future__ import annotations

import random
import threading
import time

import pytest

from tests.serve.store.conftest import OpenStore, empty
from tests.serve.store.scenes import adapter, finish, lying, messages, new_job, start
from weft.errors import Superseded, UsageError, WrongState
from weft.serve.leases import Leases
from weft.serve.records import EventDraft
from weft.serve.store import Store
from weft.serve.store.transitions import locked


def test_the_events_of_an_undisturbed_job_are_those_of_the_hosted_service(store: Store) -> None:
    job = new_job(store, suffix="mine")
    leases = Leases(store)
    _, attempt = start(leases)
    leases.settled(job.id, attempt, {"n_epochs": 2}, 1_900_000_000, base_sha256="b" * 64)
    assert store.jobs.get("ann", job.id).hyperparameters == {"n_epochs": 2}
    data = {"step": 1, "total_steps": 2, "train_loss": 0.25}
    leases.event(job.id, attempt, "info", "Step 1/2: training loss=0.25", "metrics", data)
    first = leases.checkpoint(job.id, attempt, 1, data, adapter(store, b"one"))
    leases.event(job.id, attempt, "info", "Step 2/2: training loss=0.20", "metrics", {"step": 2})
    done = finish(store, leases, job, attempt, b"two", step=2, metrics={"step": 2})
    assert first and first.model.endswith(":ckpt-step-1")
    assert messages(store, job)[2:] == [
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/2: training loss=0.25",
        "Step 2/2: training loss=0.20",
        f"Checkpoint created at step 1 with Snapshot ID: {first.model}",
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert (done.status, done.trained_tokens, done.estimated_finish, done.error) == ("succeeded", 120, None, None)
    last, before = store.jobs.checkpoints("ann", job.id).items
    assert (last.model, last.step, before) == (done.fine_tuned_model, 2, first)
    assert before.model.split(":")[4] != last.model.split(":")[4]
    result = store.files.get("ann", done.result_files[0])
    assert (result.purpose, result.filename, result.bytes) == ("fine-tune-results", "step_metrics.csv", 16)
    assert {model.base_sha256 for model in store.models.list("ann")} == {"b" * 64}
    assert store.check(deep=True) == ()


def test_the_last_three_checkpoints_stay_with_their_adapters(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    _, attempt = start(leases)
    for step in range(1, 6):
        leases.checkpoint(job.id, attempt, step, {}, adapter(store, b"%d" % step))
    assert [checkpoint.step for checkpoint in store.jobs.checkpoints("ann", job.id).items] == [5, 4, 3]
    assert len(lying(store.data / "adapters")) == len(store.models.list("ann")) == 3
    told = len(messages(store, job))
    assert leases.checkpoint(job.id, attempt, 1, {}, adapter(store, b"1")) is None  # long gone: not told again
    again = leases.checkpoint(job.id, attempt, 4, {}, adapter(store, b"4"))
    assert again == store.jobs.checkpoints("ann", job.id).items[1] and len(messages(store, job)) == told
    done = finish(store, leases, job, attempt, b"5")  # the last one was told under a name of its own
    assert store.jobs.checkpoints("ann", job.id, limit=1).items[0].model == done.fine_tuned_model
    assert len(store.models.list("ann")) == 3 and store.check(deep=True) == ()
    assert len(lying(store.data / "adapters")) == 3


def test_the_published_checkpoint_stays_however_early_its_step_was(store: Store) -> None:
    job, leases = new_job(store), Leases(store)
    _, attempt = start(leases)
    for step in range(1, 7):
        leases.checkpoint(job.id, attempt, step, {}, adapter(store, b"%d" % step))
    done = finish(store, leases, job, attempt, b"2", step=2, metrics={"step": 2})
    kept = {checkpoint.step: checkpoint.model for checkpoint in store.jobs.checkpoints("ann", job.id).items}
    assert kept.keys() == {2, 5, 6} and kept[2] == done.fine_tuned_model
    assert [message for message in messages(store, job) if message.startswith("Checkpoint")] == [
        f"Checkpoint created at step {step} with Snapshot ID: {kept[step]}" for step in (5, 6)
    ]
    assert {model.id for model in store.models.list("ann")} == set(kept.values()) and store.check(deep=True) == ()


def test_a_job_that_ends_without_a_model_tells_of_the_checkpoints_that_answer(store: Store) -> None:
    job, leases = new_job(store), Leases(store)
    _, attempt = start(leases)
    made = leases.checkpoint(job.id, attempt, 1, {}, adapter(store, b"1"))
    leases.fail(job.id, attempt, "training_failed", "No.")
    assert made is not None and messages(store, job)[-2:] == [
        f"Checkpoint created at step 1 with Snapshot ID: {made.model}",
        "The job failed: No.",
    ]


def test_metrics_of_a_step_are_told_once_over_attempts(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)

    def tell(attempt: int, *steps: int) -> list[str]:
        drafts = [EventDraft(f"Step {step}", type="metrics", data={"step": step}) for step in steps]
        return [event.message for event in leases.events(job.id, attempt, drafts)]

    _, attempt = start(leases)
    assert tell(attempt, 1, 2, 2, 3) == ["Step 1", "Step 2", "Step 3"]
    leases.fail(job.id, attempt, "worker_died", "Gone.", again=True)
    lease = leases.take("w")
    assert lease and lease.last_step == 3
    assert tell(lease.attempt, 2, 3, 4) == ["Step 4"]
    assert [m for m in messages(store, job) if m.startswith("Step")] == ["Step 1", "Step 2", "Step 3", "Step 4"]


def test_every_call_of_an_old_attempt_is_refused_and_changes_nothing(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store, seconds=20, clock=lambda: 0.0)
    _, old = start(leases)
    identity, (csv, size) = adapter(store), store.blobs.put([b"step\n"], 100)
    calls = (
        lambda: leases.beat(job.id, old),
        lambda: leases.validated(job.id, old),
        lambda: leases.event(job.id, old, "info", "late"),
        lambda: leases.settled(job.id, old, {}, None),
        lambda: leases.checkpoint(job.id, old, 1, {}, identity),
        lambda: leases.finish(job.id, old, identity, 1, csv, size),
        lambda: leases.fail(job.id, old, "x", "late"),
        lambda: leases.released(job.id, old),
    )

    def expect_refused(reason: str) -> None:
        before = store.jobs.get("ann", job.id), messages(store, job)
        for call in calls:
            with pytest.raises(Superseded, match=reason):
                call()
        assert (store.jobs.get("ann", job.id), messages(store, job)) == before

    assert leases.expire(now=20.0) == [job.id]
    expect_refused("the lease of attempt 2 ran out")
    lease = leases.take("another")
    assert lease and lease.attempt == 3
    expect_refused("attempt 3 is the newest; 2 no longer counts")
    finish(store, leases, job, lease.attempt)
    expect_refused("is succeeded; attempt 2 comes too late")
    with pytest.raises(Superseded, match="does not exist"):
        leases.beat("ftjob-none", 1)


def test_a_worker_that_beats_keeps_its_job_and_a_silent_one_loses_it(store: Store) -> None:
    """T11, the queue's part: the job is queued again as soon as its lease has run out."""
    job = new_job(store)
    leases = Leases(store, seconds=20)
    _, attempt = start(leases)
    began = time.monotonic()
    leases.beat(job.id, attempt, now=began + 15)
    assert leases.expire(now=began + 30) == []
    assert leases.expire(now=began + 36) == [job.id]
    again = store.jobs.get("ann", job.id)
    assert (again.status, again.crashes, again.attempt) == ("queued", 1, attempt)
    assert leases.expire(now=began + 1000) == []
    assert messages(store, job)[-1] == "The worker stopped answering. The job is queued again (crash 1 of 3)"


def test_three_lost_workers_fail_a_job_and_the_next_one_is_taken(store: Store) -> None:
    job, other = new_job(store), new_job(store)
    leases = Leases(store)
    for _ in range(3):
        _, attempt = start(leases)
        failed = leases.fail(job.id, attempt, "worker_died", "It crashed.", again=True)
    assert (failed.status, failed.crashes, failed.finished_at is not None) == ("failed", 3, True)
    assert failed.error == {"code": "worker_died", "message": "It crashed.", "param": None}
    assert messages(store, job)[-1] == "The job failed: It crashed."
    assert start(leases)[0].id == other.id


def test_bad_input_fails_at_once(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    lease = leases.take("w")
    assert lease and (lease.phase, lease.job.status) == ("validate", "validating_files")
    failed = leases.fail(job.id, 1, "invalid_training_file", "Line 3 is empty.", "training_file")
    assert (failed.status, failed.crashes, failed.error) == (
        "failed", 0, {"code": "invalid_training_file", "message": "Line 3 is empty.", "param": "training_file"},
    )  # fmt: skip
    assert store.jobs.events("ann", job.id, limit=1).items[0].level == "error"


def test_the_owner_with_the_fewest_jobs_at_work_is_served_first_then_the_oldest(store: Store) -> None:
    for owner in ("ann", "ann", "ann", "bob", "cid"):
        new_job(store, owner=owner)
    leases = Leases(store)
    taken = [lease.job.owner for _ in range(5) if (lease := leases.take("w"))]
    assert taken == ["ann", "bob", "cid", "ann", "ann"]
    assert leases.take("w") is None


def test_a_held_job_hears_its_owners_wish_with_the_next_heartbeat(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    _, attempt = start(leases)
    assert leases.beat(job.id, attempt) == "go"
    assert store.jobs.wish("ann", job.id, "pause").status == "running"
    assert leases.beat(job.id, attempt) == "pause"
    assert leases.released(job.id, attempt).status == "paused"
    assert leases.take("w") is None
    assert store.jobs.resume("ann", job.id).status == "queued"
    lease = leases.take("w")
    assert lease and messages(store, job)[-1] == "Fine-tuning job started again (attempt 3)"
    store.jobs.wish("ann", job.id, "pause")
    store.jobs.wish("ann", job.id, "cancel")
    with pytest.raises(WrongState, match="being cancelled"):
        store.jobs.wish("ann", job.id, "pause")
    assert leases.beat(job.id, lease.attempt) == "cancel"
    # It had saved for the pause already: the cancel that came after counts.
    assert leases.released(job.id, lease.attempt).status == "cancelled"


def test_a_pause_taken_back_while_the_worker_saves_for_it_leaves_the_job_in_the_line(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    _, attempt = start(leases)
    store.jobs.wish("ann", job.id, "pause")
    assert leases.beat(job.id, attempt) == "pause"
    assert store.jobs.resume("ann", job.id).status == "running"
    assert leases.released(job.id, attempt).status == "queued"
    again = leases.take("w")
    assert again and again.job.id == job.id


def test_a_cancel_counts_however_the_worker_ends(store: Store) -> None:
    leases = Leases(store)
    ends = (
        lambda job, attempt: finish(store, leases, job, attempt),
        lambda job, attempt: leases.fail(job.id, attempt, "x", "y"),
        lambda job, attempt: leases.fail(job.id, attempt, "x", "y", again=True),
        lambda job, attempt: leases.released(job.id, attempt),
    )
    for end in ends:
        new_job(store)
        job, attempt = start(leases)
        store.jobs.wish("ann", job.id, "cancel")
        ended = end(job, attempt)
        assert (ended.status, ended.fine_tuned_model, ended.wish) == ("cancelled", None, None)
    assert store.models.list("ann") == () and lying(store.data / "adapters") == set()
    new_job(store)
    lease = leases.take("w")
    assert lease
    store.jobs.wish("ann", lease.job.id, "cancel")
    assert leases.validated(lease.job.id, lease.attempt).status == "cancelled"


def test_a_pause_holds_after_a_crash_and_after_validation_but_not_what_is_finished(store: Store) -> None:
    leases = Leases(store)
    job = new_job(store)
    lease = leases.take("w")
    assert lease
    store.jobs.wish("ann", job.id, "pause")
    assert leases.validated(job.id, lease.attempt).status == "paused"
    assert store.jobs.resume("ann", job.id).status == "queued"
    _, attempt = start(leases)
    store.jobs.wish("ann", job.id, "pause")
    assert leases.fail(job.id, attempt, "x", "y", again=True).status == "paused"
    store.jobs.resume("ann", job.id)
    _, attempt = start(leases)
    store.jobs.wish("ann", job.id, "pause")
    assert finish(store, leases, job, attempt).status == "succeeded"


def test_a_draining_server_gives_nothing_away_and_tells_its_workers_to_stop(store: Store) -> None:
    job = new_job(store)
    new_job(store)
    leases = Leases(store)
    _, attempt = start(leases)
    leases.drain()
    assert leases.take("w") is None and leases.beat(job.id, attempt) == "stop"
    assert leases.released(job.id, attempt).status == "queued"


def test_an_adapter_must_be_adopted_before_it_is_published(store: Store) -> None:
    job = new_job(store)
    leases = Leases(store)
    _, attempt = start(leases)
    with pytest.raises(UsageError, match="was not adopted"):
        leases.checkpoint(job.id, attempt, 1, {}, "0" * 64)


def test_a_restart_sends_held_jobs_back_with_their_attempts_and_counts_no_crash(open_store: OpenStore) -> None:
    store = open_store()
    running, waiting = new_job(store), new_job(store)
    leases = Leases(store)
    start(leases)
    leases.take("w")
    store.jobs.wish("ann", waiting.id, "cancel")
    paused = new_job(store)
    store.jobs.wish("ann", paused.id, "pause")
    store.close()
    store = open_store()
    found = store.jobs.get("ann", running.id)
    assert (found.status, found.attempt, found.crashes) == ("queued", 2, 0)
    assert store.jobs.get("ann", waiting.id).status == "cancelled"
    assert store.jobs.get("ann", paused.id).status == "paused"
    assert messages(store, running)[-1].startswith("The server was restarted")
    lease = Leases(store).take("w")
    assert lease and (lease.job.id, lease.attempt, lease.phase) == (running.id, 3, "train")


def test_a_lease_that_only_the_database_knows_runs_out_too(store: Store) -> None:
    """As after a connection that broke while the commit of `take` was being answered."""
    job = new_job(store)
    Leases(store).take("w")
    leases = Leases(store, seconds=20)
    assert leases.expire(now=100.0) == [] and leases.expire(now=119.0) == []
    assert leases.expire(now=120.0) == [job.id]


def test_a_job_that_another_transaction_holds_is_passed_over_and_not_waited_for(postgresql_store: Store) -> None:
    """Whoever waits for one job while it holds another may be waited for itself: PostgreSQL calls it a deadlock."""
    store = postgresql_store
    empty(store)
    first, second = new_job(store, owner="ann"), new_job(store, owner="ben")
    leases = Leases(store)
    with store.ground.database.write() as connection:
        assert locked(connection, first.id) is not None
        lease = leases.take("w")
        assert lease is not None and lease.job.id == second.id
        assert leases.take("w") is None
    again = leases.take("w")
    assert again is not None and again.job.id == first.id


def play(store: Store, owners: int, jobs: int, workers: int) -> None:
    """T10: workers take, beat, freeze, die and finish at random, in threads; one expires, one cancels now and then."""
    for number in range(jobs):
        new_job(store, owner=f"o{number % owners}")
    leases = Leases(store, seconds=0.2, crashes=1000)
    results: dict[str, list[str]] = {}
    late, failed = [0], []
    done = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while not done.is_set():
            lease = leases.take(f"w{seed}")
            if lease is None:
                done.wait(0.01)
                continue
            id, attempt = lease.job.id, lease.attempt
            try:
                if chance.random() < 0.15:
                    continue  # dies: nobody hears of it again
                if chance.random() < 0.1:
                    done.wait(0.6)  # freezes past its lease, then goes on as if nothing had been
                    late[0] += 1
                if lease.phase == "validate":
                    leases.validated(id, attempt)
                    continue
                leases.event(id, attempt, "info", "Step 1", "metrics", {"step": 1})
                leases.beat(id, attempt)
                ended = finish(store, leases, lease.job, attempt, id.encode(), step=1)
                results.setdefault(id, []).append(ended.status)
            except Superseded:
                pass
            except BaseException as error:
                failed.append(error)
                done.set()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
    for thread in threads:
        thread.start()
    while store.jobs.counts().get("succeeded", 0) < jobs and not done.is_set():
        leases.expire()
        time.sleep(0.02)
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(map(len, results.values())) == [1] * jobs, "each job has one result"
    for number in range(owners):
        for job in store.jobs.list(f"o{number}", limit=jobs).items:
            assert job.status == "succeeded"
            told = messages(store, job)
            assert told.count("Step 1") == told.count("The job has successfully completed") == 1
            assert len(store.jobs.checkpoints(job.owner, job.id).items) == 1
    assert store.check(deep=True) == ()


@pytest.fixture
def racing_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes make their adapter in one folder; here each thread has its own."""
    from tests.serve.store import scenes

    def adapter(store: Store, content: bytes = b"weights") -> str:
        folder = store.data / "work" / f"adapter-{threading.get_ident()}"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(content)
        return store.blobs.adopt_adapter(folder)

    monkeypatch.setattr(scenes, "adapter", adapter)


def test_many_workers_that_die_and_freeze_leave_one_result_each(store: Store, racing_adapters: None) -> None:
    play(store, owners=2, jobs=8, workers=4)


@pytest.mark.slow
def test_eight_workers_and_two_hundred_jobs_leave_one_result_each(store: Store, racing_adapters: None) -> None:
    play(store, owners=5, jobs=200, workers=8)
