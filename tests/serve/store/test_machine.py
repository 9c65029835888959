"""T9: random steps of owners, workers, time and restarts against a plain model of the state machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, Row

from tests.serve.store.conftest import empty
from tests.serve.store.scenes import adapter, draft, put_file
from weft.errors import Superseded, WrongState
from weft.serve.leases import Leases
from weft.serve.records import FINAL
from weft.serve.store import Store
from weft.serve.store.transitions import locked, recover

SECONDS = 20.0
OWNERS = ("ann", "bob")
TELLS = {
    "succeeded": "The job has successfully completed",
    "failed": "The job failed: bad",
    "cancelled": "The job was cancelled",
    "paused": "The job was paused",
}


@dataclass
class Plain:
    """A job as the model has it: no database, no transactions."""

    id: str
    owner: str
    status: str = "validating_files"
    validated: bool = False
    attempt: int = 0
    crashes: int = 0
    wish: str | None = None
    until: float | None = None  # end of the lease; None where nobody holds it
    last_step: int = 0
    steps: tuple[int, ...] = ()

    def let_go(self) -> None:
        if self.wish == "cancel":
            self.end("cancelled")
            return
        self.status = "paused" if self.wish == "pause" else "queued" if self.validated else "validating_files"
        self.wish = self.until = None

    def end(self, status: str) -> None:
        self.status = status
        self.wish = self.until = None


def machine_for(store: Store) -> type[RuleBasedStateMachine]:
    chosen = st.integers(0, 5)
    jobs_made = precondition(lambda self: bool(self.jobs))

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            empty(store)
            self.now = 0.0
            self.leases = Leases(store, seconds=SECONDS, clock=lambda: self.now)
            self.jobs: list[Plain] = []
            self.adapter = adapter(store)
            self.csv = store.blobs.put([b"step\n"], 100)
            self.file = {owner: put_file(store, owner=owner) for owner in OWNERS}

        def pick(self, which: int) -> Plain:
            return self.jobs[which % len(self.jobs)]

        def attempt(self, job: Plain, call: object, *, late: bool, expected: bool = True) -> bool:
            """Call as a worker; whether it counted. The model says beforehand whether it may."""
            attempt = job.attempt - 1 if late else job.attempt
            counts = job.until is not None and not late and job.status not in FINAL
            try:
                call(attempt)  # type: ignore[operator]
            except Superseded:
                assert not counts, f"{job} was refused"
                return False
            except WrongState:
                assert counts and not expected, f"{job} was in a wrong state"
                return False
            assert counts and expected, f"{job} was let through"
            return True

        @rule(owner=st.sampled_from(OWNERS))
        def create(self, owner: str) -> None:
            if len(self.jobs) < 6:
                made = store.jobs.create(owner, draft(self.file[owner]))
                self.jobs.append(Plain(made.id, owner))

        @rule()
        def take(self) -> None:
            waiting = [job for job in self.jobs if job.until is None and job.status in ("queued", "validating_files")]
            busy = {owner: sum(job.owner == owner and job.until is not None for job in self.jobs) for owner in OWNERS}
            lease = self.leases.take("w")
            if not waiting:
                assert lease is None
                return
            first = min(waiting, key=lambda job: (busy[job.owner], job.id))
            assert lease is not None and lease.job.id == first.id
            first.attempt += 1
            first.until = self.now + SECONDS
            first.status = "running" if first.validated else "validating_files"
            assert (lease.attempt, lease.phase) == (first.attempt, "train" if first.validated else "validate")

        @jobs_made
        @rule(which=chosen, late=st.booleans())
        def beat(self, which: int, late: bool) -> None:
            job = self.pick(which)
            answers = []
            if self.attempt(job, lambda attempt: answers.append(self.leases.beat(job.id, attempt)), late=late):
                assert answers == [job.wish or "go"]
                job.until = self.now + SECONDS

        @jobs_made
        @rule(which=chosen, late=st.booleans())
        def validated(self, which: int, late: bool) -> None:
            job = self.pick(which)
            fits = job.status == "validating_files"
            if self.attempt(job, lambda attempt: self.leases.validated(job.id, attempt), late=late, expected=fits):
                job.validated = True
                job.let_go()

        @jobs_made
        @rule(which=chosen, late=st.booleans(), step=st.integers(1, 4))
        def metrics(self, which: int, late: bool, step: int) -> None:
            job = self.pick(which)
            told = {"level": "info", "message": f"Step {step}", "type": "metrics", "data": {"step": step}}
            counted = self.attempt(job, lambda attempt: self.leases.event(job.id, attempt, **told), late=late)
            if counted and step > job.last_step:
                job.last_step, job.steps = step, (*job.steps, step)

        @jobs_made
        @rule(which=chosen, late=st.booleans())
        def checkpoint(self, which: int, late: bool) -> None:
            job = self.pick(which)
            made = (job.last_step, {}, self.adapter)
            fits = job.status == "running"
            self.attempt(job, lambda attempt: self.leases.checkpoint(job.id, attempt, *made), late=late, expected=fits)

        @jobs_made
        @rule(which=chosen, late=st.booleans())
        def finish(self, which: int, late: bool) -> None:
            job = self.pick(which)
            call = lambda attempt: self.leases.finish(job.id, attempt, self.adapter, 9, *self.csv)  # noqa: E731
            if self.attempt(job, call, late=late, expected=job.status == "running"):
                job.end("cancelled" if job.wish == "cancel" else "succeeded")

        @jobs_made
        @rule(which=chosen, late=st.booleans(), again=st.booleans())
        def fail(self, which: int, late: bool, again: bool) -> None:
            job = self.pick(which)
            if self.attempt(job, lambda a: self.leases.fail(job.id, a, "code", "bad", again=again), late=late):
                self.failed(job, again)

        @jobs_made
        @rule(which=chosen, late=st.booleans())
        def released(self, which: int, late: bool) -> None:
            job = self.pick(which)
            if self.attempt(job, lambda a: self.leases.released(job.id, a), late=late):
                job.let_go()

        @jobs_made
        @rule(which=chosen, wish=st.sampled_from(("cancel", "pause")))
        def wish(self, which: int, wish: str) -> None:
            job = self.pick(which)
            refused = job.status in FINAL or (wish == "pause" and (job.status == "paused" or job.wish == "cancel"))
            try:
                store.jobs.wish(job.owner, job.id, wish)  # type: ignore[arg-type]
            except WrongState:
                assert refused
                return
            assert not refused
            job.wish = wish
            if job.until is None:
                job.let_go()

        @jobs_made
        @rule(which=chosen)
        def resume(self, which: int) -> None:
            job = self.pick(which)
            try:
                store.jobs.resume(job.owner, job.id)
            except WrongState:
                assert job.status != "paused" and job.wish != "pause"
                return
            if job.wish == "pause":
                job.wish = None
                return
            assert job.status == "paused"
            job.let_go()

        @rule(seconds=st.sampled_from((1.0, 12.0, 25.0)))
        def time_passes(self, seconds: float) -> None:
            self.now += seconds
            over = [job for job in self.jobs if job.until is not None and job.until <= self.now]
            assert set(self.leases.expire()) == {job.id for job in over}
            for job in over:
                self.failed(job, again=True)

        @rule()
        def restart(self) -> None:
            self.leases = Leases(store, seconds=SECONDS, clock=lambda: self.now)
            recover(store.ground)
            for job in self.jobs:
                if job.until is not None:
                    job.let_go()

        def failed(self, job: Plain, again: bool) -> None:
            job.crashes += again
            if again and job.crashes < 3:
                job.let_go()
            else:
                job.end("cancelled" if job.wish == "cancel" else "failed")

        @invariant()
        def the_store_agrees(self) -> None:
            for job in self.jobs:
                found = store.jobs.get(job.owner, job.id)
                assert (found.status, found.attempt, found.crashes, found.wish) == (
                    job.status, job.attempt, job.crashes, job.wish,
                )  # fmt: skip
                assert (found.finished_at is not None) == (job.status in FINAL)
                assert (found.fine_tuned_model is not None) == (job.status == "succeeded") == bool(found.result_files)

        def teardown(self) -> None:
            for job in self.jobs:
                events = store.jobs.events_since(job.owner, job.id, 0)
                assert [event.number for event in events] == list(range(1, len(events) + 1))
                assert tuple(e.data["step"] for e in events if e.type == "metrics" and e.data) == job.steps
                messages = [event.message for event in events]
                for status in FINAL:
                    said = sum(message.startswith(TELLS[status].split(":")[0]) for message in messages)
                    assert said == (job.status == status)
                if job.status in FINAL:
                    assert messages[-1].startswith(TELLS[job.status].split(":")[0])
                assert len(store.jobs.checkpoints(job.owner, job.id).items) <= 3
            assert store.check(deep=True) == ()

    return Machine


def run(store: Store, examples: int, steps: int, **also: object) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine_for(store),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=quiet,
            derandomize=True, database=None, **also,  # type: ignore[arg-type]
        ),
    )  # fmt: skip


def test_random_steps_agree_with_a_plain_model(store: Store) -> None:
    run(store, examples=4, steps=40)


@pytest.mark.slow
def test_ten_thousand_random_steps_agree_with_a_plain_model(store: Store) -> None:
    run(store, examples=200, steps=50)


def test_the_model_notices_a_broken_rule(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.serve.leases.held", lambda connection, id, attempt, **_: any_attempt(connection, id))
    with pytest.raises(AssertionError, match="Failing test case"):
        run(sqlite_store, examples=100, steps=40, phases=(Phase.generate,), report_multiple_bugs=False)


def any_attempt(connection: Connection, id: str) -> Row[Any]:
    """`held` as it would be if it forgot to compare attempts."""
    row = locked(connection, id)
    if row is None or row.held_by is None:
        raise Superseded("nobody holds it")
    return row
