"""Whatever ends a worker or its server: one result, the same bytes, nothing told twice (T11 to T15, T23 in short)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.serve.work.conftest import House, chat_rows
from weft.errors import Superseded
from weft.serve.records import Job
from weft.serve.work import supervisor
from weft.serve.work.desk import Desk
from weft.serve.work.folders import tidy, untidy
from weft.serve.work.protocol import Finished
from weft.train import checkpoint, steps

LONG = {"n_epochs": 5, "batch_size": 4}
TOTAL = 5 * 5


@pytest.fixture(autouse=True)
def _saves_and_tidies_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.05)  # workers are forks of this process
    monkeypatch.setattr(supervisor, "TIDY_SECONDS", 0.1)


def _forms(short: int, long: int) -> Any:
    """How often a test does it: a few times by default, as often as the promise says with `-m slow`."""
    return pytest.mark.parametrize("times", [short, pytest.param(long, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> tuple[str, list[str]]:
    """The adapter and the metrics of the long job that nobody disturbs."""
    house = House(tmp_path_factory.mktemp("undisturbed") / "data", base_folder).open()
    job = house.job(hyperparameters=LONG)
    assert house.ended(job).status == "succeeded"
    known = house.adapter(job), _metrics(house, job)
    house.close()
    return known


def _metrics(house: House, job: Job) -> list[str]:
    return [f"{event.message} {event.data}" for event in house.events(job) if event.type == "metrics"]


def _same(house: House, job: Job, undisturbed: tuple[str, list[str]]) -> None:
    done = house.ended(job)
    assert done.status == "succeeded", done.error
    assert house.adapter(job) == undisturbed[0]
    assert _metrics(house, job) == undisturbed[1]
    assert house.messages(job).count("The job has successfully completed") == 1
    names = [model.id for model in house.store.models.list(job.owner) if model.job_id == job.id]
    assert [name for name in names if ":ckpt-step-" not in name] == [done.fine_tuned_model]


def _gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _after_steps(house: House, job: Job, count: int) -> None:
    house.until(lambda: len(house.steps_told(job)) >= count)


@_forms(1, 25)
def test_a_worker_killed_at_random_moments_ends_in_the_same_bytes(
    house: House, undisturbed: tuple[str, list[str]], times: int
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw, kills = random.Random(seed), 0
    house.open()
    for _ in range(times):
        job = house.job(hyperparameters=LONG)
        for crash in (1, 2):  # a third would be the last
            if draw.random() < 0.8:
                _after_steps(house, job, draw.randrange(1, TOTAL - 2))
            house.until(lambda job=job: job.id in house.supervisor.processes() or house.now(job).finished_at)
            house.kill(job)
            if house.now(job).finished_at:  # on a busy machine it may be through by now
                break
            kills += 1
            began = time.monotonic()
            house.until(lambda job=job, crash=crash: house.now(job).crashes == crash)
            assert time.monotonic() - began < house.seconds + 5
        _same(house, job, undisturbed)
    assert kills > times // 2


def test_a_frozen_worker_is_superseded_and_ended(house: House, undisturbed: tuple[str, list[str]]) -> None:
    house.seconds = 1.0
    job = house.open().job(hyperparameters=LONG)
    _after_steps(house, job, 5)
    frozen = house.process(job)
    house.signal(job, signal.SIGSTOP)
    began = time.monotonic()
    house.until(lambda: house.now(job).crashes == 1)
    assert time.monotonic() - began < house.seconds + 5
    house.until(lambda: _gone(frozen))
    _same(house, job, undisturbed)


def test_what_a_superseded_worker_still_says_changes_nothing(house: House) -> None:
    house.open(start=False)
    job = house.job()
    lease = house.leases.take("one", now=0.0)
    assert lease is not None
    desk = Desk(lease, house.leases, house.store.blobs, house.data / "work" / job.id, time.time)
    house.leases.expire(now=100.0)
    assert house.leases.take("two", now=100.0).attempt == 2
    with pytest.raises(Superseded, match="attempt 2 is the newest"):
        desk.fail("internal_error", "late", again=False)
    with pytest.raises(Superseded):
        desk.leave()
    assert house.now(job).status == "validating_files" and not desk.ended


@_forms(1, 20)
def test_a_server_that_is_killed_goes_on_where_it_was(
    house: House, undisturbed: tuple[str, list[str]], times: int
) -> None:
    draw = random.Random(times)
    house.open(start=False)
    jobs = [house.job(hyperparameters=LONG) for _ in range((times + 3) // 4)]
    house.store.close()
    for kill in range(times):
        job = jobs[kill // 4]
        worker = _killed_server(house, job, draw.randrange(1, 5) * (kill % 4 + 1))
        house.until(lambda worker=worker: _gone(worker))
    house.open()
    for job in jobs:
        _same(house, job, undisturbed)
        assert house.now(job).crashes == 0


def _killed_server(house: House, job: Job, count: int) -> int:
    """Another process is the server until so many steps of `job` are told; the worker that it had."""
    ready, tell = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            house.open()
            _after_steps(house, job, count)
            os.write(tell, f"{house.process(job)}\n".encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(ready) as told:
        worker = int(told.readline())
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    return worker


@_forms(1, 10)
def test_a_server_that_stops_lets_its_worker_save(house: House, undisturbed: tuple[str, list[str]], times: int) -> None:
    house.open()
    for time_ in range(times):
        job = house.job(hyperparameters=LONG)
        _after_steps(house, job, time_ + 2)
        began = time.monotonic()
        house.close(patience=20)
        assert time.monotonic() - began < 10
        house.open(start=False)
        assert (house.now(job).status, house.now(job).crashes) == ("queued", 0)
        saved = sorted((house.data / "work" / job.id / "run" / "checkpoints").glob("step-*"))[-1]
        assert int(saved.name.removeprefix("step-")) == len(house.steps_told(job))  # no step is lost
        house.supervisor.start()
        _same(house, job, undisturbed)


def _paused(house: House) -> tuple[Job, Path]:
    """A job that rests in the middle, and the folder of its checkpoints."""
    job = house.open().job(hyperparameters=LONG)
    _after_steps(house, job, 5)
    house.store.jobs.wish("local", job.id, "pause")
    house.until(lambda: house.now(job).status == "paused")
    house.until(lambda: not house.supervisor.busy)
    assert 0 < len(house.steps_told(job)) < TOTAL
    return job, house.data / "work" / job.id / "run" / "checkpoints"


def test_a_paused_job_whose_newest_checkpoint_a_disk_damaged_goes_on_from_the_one_before(
    house: House, undisturbed: tuple[str, list[str]]
) -> None:
    """Paused and resumed it ends in the same bytes, whatever was damaged meanwhile; its owner reads of it."""
    job, checkpoints = _paused(house)
    before, newest = checkpoint.named(checkpoints)
    _damage(newest)
    house.store.jobs.resume("local", job.id)
    _same(house, job, undisturbed)
    told = [event.message for event in house.events(job) if event.level == "warn" and "damaged" in event.message]
    assert told == [
        f"What was saved at step {checkpoint.step_of(newest)} is damaged and was set aside; training goes on from step "
        f"{checkpoint.step_of(before)}, and its result is the same. Look after the disk."
    ]


def test_a_job_whose_checkpoints_are_all_damaged_fails_once_and_is_told_what_to_do(house: House) -> None:
    job, checkpoints = _paused(house)
    for folder in checkpoint.named(checkpoints):
        _damage(folder)
    house.store.jobs.resume("local", job.id)
    done = house.ended(job)
    assert done.error is not None
    assert (done.status, done.error["code"], done.crashes) == ("failed", "checkpoint_damaged", 0)
    assert "Create it again" in done.error["message"] and str(house.data) not in done.error["message"]
    log = (house.data / "work" / job.id / f"attempt-{done.attempt}.log").read_text()
    assert "every checkpoint is damaged, 2 of 2" in log
    house.until(lambda: not untidy(house.data / "work"))


def _damage(folder: Path) -> None:
    path = folder / checkpoint.TENSORS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_what_an_earlier_server_could_not_put_away_goes_and_logs_and_resting_jobs_stay(house: House) -> None:
    house.open(start=False)
    kept, gone = house.job(), house.job()
    house.store.jobs.wish("local", gone.id, "cancel")
    house.store.jobs.wish("local", kept.id, "pause")
    work = house.data / "work"
    for job in (kept, gone):
        (work / job.id / "run" / "checkpoints" / "step-00000001").mkdir(parents=True)
        (work / job.id / "attempt-1.log").write_text("a line")
    (work / "nobody's" / "run" / "adapter").mkdir(parents=True)
    (work / "scratch").mkdir()
    (work / "scratch" / "torchinductor").mkdir()
    house.supervisor.start()
    house.until(lambda: not (work / gone.id / "run" / "checkpoints").exists())
    assert (work / gone.id / "attempt-1.log").exists()
    assert (work / kept.id / "run" / "checkpoints" / "step-00000001").exists()
    assert (work / "nobody's" / "run" / "adapter").exists()
    assert list((work / "scratch").iterdir()) == []


def test_a_link_in_a_jobs_folder_is_not_followed_when_it_is_put_away(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "epochs").mkdir(parents=True)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "run").symlink_to(tmp_path / "elsewhere")
    tidy(tmp_path / "job")
    assert (tmp_path / "elsewhere" / "epochs").exists()


@pytest.mark.slow
def test_the_process_that_workers_come_from_may_die(house: House, undisturbed: tuple[str, list[str]]) -> None:
    job = house.open().job(hyperparameters=LONG)
    _after_steps(house, job, 5)
    worker = house.process(job)
    parent = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)
    _same(house, job, undisturbed)
    assert _gone(worker)


@_forms(1, 10)
def test_a_cancelled_job_ends_soon_in_every_phase_and_leaves_no_process(house: House, times: int) -> None:
    house.open(start=False)
    waiting = [house.job() for _ in range(times)]
    for job in waiting:
        house.store.jobs.wish("local", job.id, "cancel")
        assert house.now(job).status == "cancelled"
    house.supervisor.start()
    for _ in range(times):
        for phase in ("validating", "beginning", "training", "paused"):
            _cancelled(house, phase)
    house.until(lambda: not house.supervisor.busy)
    assert all(":ckpt-step-" in model.id for model in house.store.models.list("local"))


def _cancelled(house: House, phase: str) -> None:
    """A job that is cancelled in `phase` ends in time, its process too; only the adapters of its epochs are kept."""
    job = house.job(hyperparameters=LONG)
    if phase != "validating":
        house.until(lambda: house.now(job).status == "running")
    process = house.process(job)
    if phase in ("training", "paused"):
        _after_steps(house, job, 3)
    if phase == "paused":
        house.store.jobs.wish("local", job.id, "pause")
        house.until(lambda: house.now(job).status == "paused")
    began = time.monotonic()
    house.store.jobs.wish("local", job.id, "cancel")
    assert house.ended(job, 10).status == "cancelled", phase
    assert time.monotonic() - began < 10
    house.until(lambda: _gone(process))
    house.until(lambda: not untidy(house.data / "work"))  # nothing can go on from it
    for kept in house.store.jobs.checkpoints("local", job.id).items:
        assert load_file(house.store.blobs.adapter(kept.adapter) / "adapter_model.safetensors")


def test_a_job_that_always_crashes_fails_after_three_attempts_and_the_next_one_goes_on(house: House) -> None:
    house.open()
    job, after = house.job(hyperparameters=LONG), house.job()
    house.until(lambda: house.now(job).status == "running")
    for crash in range(1, 4):
        # Again and again: the process that is known may be the one before, which is gone.
        house.until(lambda crash=crash: house.now(job).crashes >= crash or house.kill(job))
    done = house.ended(job)
    assert done.error is not None
    assert (done.status, done.error["code"]) == ("failed", "worker_died")
    assert "killed by signal 9" in done.error["message"]
    assert len(list((house.data / "work" / job.id).glob("attempt-*.log"))) == done.attempt
    assert house.ended(after).status == "succeeded"


def test_what_a_worker_said_is_nothing_once_it_was_let_go(house: House) -> None:
    attempts, job = house.open().supervisor._attempts, house.job(hyperparameters=LONG)  # type: ignore[union-attr]
    held = house.until(lambda: next(iter(attempts.all), None))
    house.until(lambda: house.now(job).status == "running" and held not in attempts.all)
    assert not attempts.hear(held)


def test_a_job_over_its_memory_cap_fails_with_a_code(house: House) -> None:
    # What a worker holds before it has learned anything; this process may hold far more from earlier tests.
    code = "from weft.serve.work.nursery import _import_once; _import_once(); print(open('/proc/self/status').read())"
    held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    data = next(line for line in held.splitlines() if line.startswith("VmData"))
    house.settings = {"worker_memory_gb": (int(data.split()[1]) * 1024 + 24_000_000) / 1e9}
    for row in (rows := chat_rows()):
        row["messages"][0]["content"] += " and so on" * 18
    job = house.open().job(rows, hyperparameters={"batch_size": 1000})
    done = house.ended(job)
    assert done.error is not None
    assert (done.status, done.crashes) == ("failed", 3)
    # Where a library below Python is refused memory, it ends the process itself.
    assert done.error["code"] in ("out_of_memory", "worker_died")
    assert (house.data / "work" / job.id / "attempt-3.log").read_text().strip()


def test_a_job_over_its_time_limit_fails_and_is_not_tried_again(house: House) -> None:
    house.settings = {"job_hours": 0.5 / 3600}
    job = house.open().job(hyperparameters={"n_epochs": 50, "batch_size": 1})
    done = house.ended(job)
    assert done.error is not None
    assert (done.status, done.error["code"], done.crashes) == ("failed", "time_limit", 0)


def test_a_link_in_the_place_of_an_adapter_is_not_followed(house: House, tmp_path: Path) -> None:
    house.open(start=False)
    job = house.job()
    lease = house.leases.take("one")
    assert lease is not None
    folder = house.data / "work" / job.id
    (folder / "run").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "run" / "adapter").symlink_to(elsewhere)
    from weft.errors import DamageError

    desk = Desk(lease, house.leases, house.store.blobs, folder, time.time)
    with pytest.raises(DamageError, match="a link stands in its place"):
        desk.hear(Finished(trained_tokens=1, step=1, values={}))
