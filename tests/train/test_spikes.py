"""A loss that jumps is told within five steps, and one that only wavers is not (T19)."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import train
from weft.runs import Run
from weft.train import steps
from weft.train.spikes import LEAST, STEPS, jumped


def _wavering(count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [2 * 0.98**n + 0.1 * draw.random() for n in range(count)]


def test_a_jump_is_told_once_and_with_what_was_usual() -> None:
    losses = _wavering(60)
    assert [jumped(losses[:n]) for n in range(61)] == [None] * 61
    losses += [3.0] * 5
    told = [n for n in range(66) if jumped(losses[:n]) is not None]
    assert told == [60 + STEPS]
    assert jumped(losses[: told[0]]) == pytest.approx(statistics.median(losses[40:60]))


def test_one_hard_batch_or_two_are_no_jump() -> None:
    for hard in range(1, STEPS):
        losses = _wavering(60) + [9.0] * hard + _wavering(90)[60:]
        assert not any(jumped(losses[:n]) for n in range(len(losses)))


def test_small_is_not_far_where_nearly_nothing_is_lost() -> None:
    assert jumped([0.01] * 60 + [0.0109] * STEPS) is None
    assert jumped([0.01] * 60 + [0.0111] * STEPS) == 0.01


def test_before_anything_is_usual_nothing_jumps() -> None:
    assert jumped([1.0] * (LEAST - 1) + [9.0] * STEPS) is None
    assert jumped([1.0] * LEAST + [9.0] * STEPS) == 1.0
    assert jumped([]) is None


def _told(run: Run) -> list[dict[str, Any]]:
    events = map(json.loads, run.path("events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "warning"]


def _trained(folder: Path, base: Path, seed: int) -> Run:
    torch.set_num_threads(1)
    rate = (1e-3, 3e-3, 1e-2)[seed % 3]
    return train(folder, base, full=True, epochs=15, seed=seed, patience=99, learning_rate=rate)[0]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_a_planted_jump_is_told_within_five_steps(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """T19: a rate that is far too high for one step of 60; 1 training in the short form, 10 in the long one."""
    planted, rate = random.Random(seed).randrange(LEAST + STEPS, 50), steps.rate

    def planting(schedule: Any, step: int, *rest: Any, **more: Any) -> float:
        return 1000.0 if step == planted else rate(schedule, step, *rest, **more)

    monkeypatch.setattr(steps, "rate", planting)
    told = _told(_trained(tmp_path / "r", tiny_folder, seed))
    assert planted + 1 < told[0]["step"] <= planted + 1 + 5
    assert f"at step {told[0]['step']}, where" in told[0]["message"] and str(tmp_path) not in told[0]["message"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))])
def test_a_clean_training_is_not_warned_of(tmp_path: Path, tiny_folder: Path, seed: int) -> None:
    """T19: 1 in the short form, 20 in the long one."""
    assert _told(_trained(tmp_path / "r", tiny_folder, seed)) == []
