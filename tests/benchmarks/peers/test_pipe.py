"""A contestant answers line by line; when it dies, complains or is late, that is said and its process is gone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.pipe import Worker
from benchmarks.peers.worker import Finished, Gate, peak_memory_bytes
from weft.errors import RunError

ECHO = """
import json, os, sys, time
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "die": print("cannot go on", file=sys.stderr); sys.exit(3)
    if command["do"] == "sleep": time.sleep(60)
    print(json.dumps({"error": "no such cell"} if command["do"] == "complain" else {**command, "x": os.environ["X"]}))
    sys.stdout.flush()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker("trl", [sys.executable, "-c", ECHO], {"X": "1"}, tmp_path / "log")


def test_questions_are_answered_one_by_one_in_the_given_environment(worker: Worker) -> None:
    with worker:
        assert worker.ask(do="step", n=1) == {"do": "step", "n": 1, "x": "1"}
        assert worker.ask(10.0, do="step", n=2)["n"] == 2
    assert worker._process.returncode is not None


def test_a_dead_contestant_leaves_its_last_words(worker: Worker) -> None:
    with worker, pytest.raises(RunError, match=r"trl: its process ended \(exit 3\). Its last words: cannot go on"):
        worker.ask(do="die")


def test_a_complaint_becomes_an_error(worker: Worker) -> None:
    with worker, pytest.raises(RunError, match="trl: no such cell"):
        worker.ask(do="complain")


def test_a_late_contestant_is_ended(worker: Worker) -> None:
    with worker, pytest.raises(TimeoutError, match="no answer within 0 s"):
        worker.ask(0.2, do="sleep")
    assert worker._process.returncode is not None


def test_the_gate_times_a_step_and_what_comes_after_is_not_timed() -> None:
    import time

    commands, answers = iter([{"do": "step"}, None]), []
    gate = Gate(lambda: next(commands), answers.append)
    gate.wait()
    gate.done(1.5, 16, lambda: time.sleep(1.5))
    assert answers[0]["loss"] == 1.5 and answers[0]["examples"] == 16 and answers[0]["seconds"] < 1.5
    with pytest.raises(Finished):
        gate.wait()


def test_peak_memory_is_that_of_this_process() -> None:
    assert 10 * 2**20 < peak_memory_bytes() < 64 * 2**30
