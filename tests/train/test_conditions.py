"""A training that goes on under other threads, processes, devices or numbers says so; under the same, nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import published, train
from weft.errors import Stopped
from weft.runs import Run
from weft.testing import tiny_base
from weft.train import checkpoint, conditions, crew, steps
from weft.train.conditions import changed
from weft.train.stop import Stop


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many threads this process is said to have; it computes with one."""
    torch.set_num_threads(1)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    return lambda count: monkeypatch.setattr(crew.torch, "get_num_threads", lambda: count)


def _stopped(folder: Path, after: int, **values: Any) -> None:
    stop, update = Stop(), steps.Steps.update

    def ends(self: steps.Steps, *args: object, **named: object) -> None:
        update(self, *args, **named)  # type: ignore[arg-type]
        if self.state.step == after:
            stop.order()

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(steps.Steps, "update", ends)
        train(folder, stop=stop, **values)


def _events(run: Run, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def test_another_number_of_threads_is_said_and_taken_down(tmp_path: Path, threads: Callable[[int], None]) -> None:
    threads(2)
    _stopped(tmp_path / "cut", after=3)
    threads(1)
    run, record = train(tmp_path / "cut")
    differs = "threads 1 instead of 2, processes that share a step 1 instead of 2"
    (warning,) = _events(run, "warning")
    assert warning["message"] == (
        f"Training goes on from step 3 with {differs}: its result is not exact, for it can differ in rounding from "
        "that of an undisturbed training and will not be equal to it to the byte."
    )
    assert (warning["was"]["threads"], warning["now"]["threads"]) == ("2", "1")
    (resumed,) = _events(run, "resumed")
    assert (resumed["step"], resumed["not_exact"]) == (3, differs)
    assert record.not_exact == (f"from step 3 on with {differs}",) and record.to_json()["not_exact"]


def test_the_same_number_of_threads_is_the_same_bytes_and_no_word(
    tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(2)
    whole, undisturbed = train(tmp_path / "whole")
    _stopped(tmp_path / "cut", after=3)
    cut, record = train(tmp_path / "cut")
    assert published(cut) == published(whole)
    assert _events(cut, "warning") == [] and "not_exact" not in _events(cut, "resumed")[0]
    assert record.not_exact == undisturbed.not_exact == ()


def test_what_was_not_exact_once_stays_so(tmp_path: Path, threads: Callable[[int], None]) -> None:
    for count, after in ((1, 2), (2, 4), (2, 5)):
        threads(count)
        _stopped(tmp_path / "cut", after=after)
    threads(1)
    run, record = train(tmp_path / "cut")
    assert [told.split(",")[0] for told in record.not_exact] == [
        "from step 2 on with threads 2 instead of 1",
        "from step 5 on with threads 1 instead of 2",
    ]
    assert len(_events(run, "warning")) == 2


def test_a_checkpoint_from_before_such_facts_were_kept_still_loads(
    tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(1)
    whole, _ = train(tmp_path / "whole")
    _stopped(tmp_path / "cut", after=3)
    for folder in checkpoint.named(tmp_path / "cut/checkpoints"):
        tensors, state = checkpoint.load(folder)
        del state["conditions"], state["not_exact"]
        checkpoint.save(folder, tensors, state)
    cut, record = train(tmp_path / "cut")
    assert published(cut) == published(whole)
    assert _events(cut, "warning") == [] and record.not_exact == ()


@pytest.mark.parametrize("name", ["precision", "device"])
def test_other_numbers_and_another_device_are_said_too(
    tmp_path: Path, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    threads(1)
    _stopped(tmp_path / "cut", after=3)
    values: dict[str, Any] = {}
    if name == "precision":
        values, said = {"precision": "bfloat16"}, "with precision bfloat16 instead of float32"
    else:
        monkeypatch.setattr(conditions, "_name", lambda device: "a GPU")
        said = "with device a GPU instead of CPU with "
    run, record = train(tmp_path / "cut", **values)
    assert said in _events(run, "warning")[0]["message"] and said in record.not_exact[0]


def test_a_device_is_named_as_far_as_its_products_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert conditions._name(tiny_base().device) == "CPU with AVX2"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device.index}")
    assert conditions._name(torch.device("cuda", 1)) == "a GPU, 1"


def test_what_was_not_taken_down_differs_from_nothing() -> None:
    now = {"threads": "2", "device": "CPU"}
    assert changed({}, now) == changed(now, now) == changed({**now, "more": "1"}, now) == ""
    assert changed({"threads": "4"}, now) == "threads 2 instead of 4"


def test_random_states_of_more_devices_than_are_here_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor([n], dtype=torch.uint8) for n in (7, 8)])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    checkpoint.restore_random_state(checkpoint.random_state())
    assert [int(state) for state in given] == [7]
