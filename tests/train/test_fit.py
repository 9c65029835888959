"""When memory runs out, a step begins anew with less at once, and ends as if it had begun so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import train
from weft.errors import ResourceError
from weft.forest.logprobs import learned_logprobs
from weft.progress import Silent
from weft.records import Tokens
from weft.runs import Run
from weft.testing import tiny_base
from weft.train import sft
from weft.train.batches import micro_batches
from weft.train.fit import Fit, out_of_memory, recompute
from weft.train.needs import Plan, keep, shrink

PLAN = Plan(
    micro_tokens=8192, recompute=False, longest=30, peak_bytes=0, needed_bytes=0, free_bytes=None, flop_per_step=0,
    disk_bytes=0, why="",
)  # fmt: skip
ROWS = [Tokens(tuple(range(1, n)), (False,) * 5 + (True,) * (n - 6)) for n in (12, 20, 31, 25)]
CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Step:
    """A step over ROWS, with noise, that runs out of memory at its pass `fails_at`, so many `times`."""

    def __init__(self, error: Exception | None = None, times: int = 0, fails_at: int = 1) -> None:
        self.model = tiny_base().model.train().requires_grad_(True)
        self.parameters = list(self.model.parameters())
        self.error, self.left, self.fails_at = error, times, fails_at
        self.sizes: list[int] = []

    def __call__(self, most: int) -> float:
        self.sizes.append(most)
        loss = torch.zeros(())
        for number, part in enumerate(micro_batches(self.model, ROWS, most)):
            if (
                self.left
                and self.error
                and number == min(self.fails_at, len(list(micro_batches(self.model, ROWS, most))) - 1)
            ):
                self.left -= 1
                raise self.error
            found = learned_logprobs(self.model, part)
            part_loss = -(found * torch.rand_like(found)).sum()
            part_loss.backward()
            loss += part_loss.detach()
        return float(loss)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"run": {}})


def _fit(run: Run, step: Step, plan: Plan, wish: str = "auto", said: list[str] | None = None) -> Fit:
    run.write_json("plan.json", plan.to_json())
    return Fit(run, step.model, plan, step.parameters, wish, (said if said is not None else []).append)


def _run(run: Run, step: Step, plan: Plan, wish: str = "auto") -> tuple[float, list[torch.Tensor], list[str]]:
    torch.manual_seed(3)
    said: list[str] = []
    loss = _fit(run, step, plan, wish, said)(step)
    return loss, [parameter.grad for parameter in step.parameters if parameter.grad is not None], said


@pytest.mark.parametrize(
    ("error", "start", "smaller", "times"),
    [
        (RuntimeError(CPU), 64, 32, 1),
        (torch.OutOfMemoryError("CUDA out of memory."), 128, 32, 2),
        (MemoryError(), 64, 1, 2),
    ],
)
def test_a_step_begun_anew_equals_an_undisturbed_smaller_one(
    run: Run, error: Exception, start: int, smaller: int, times: int
) -> None:
    disturbed = Step(error, times, fails_at=1)
    loss, gradients, said = _run(run, disturbed, replace(PLAN, micro_tokens=start))
    assert disturbed.sizes[-1] == smaller and len(said) == times
    assert "the step begins anew" in said[0]
    wanted, undisturbed, nothing = _run(run, Step(), replace(PLAN, micro_tokens=smaller))
    assert loss == wanted and not nothing
    assert len(gradients) == len(undisturbed) > 0
    assert all(torch.equal(one, other) for one, other in zip(gradients, undisturbed, strict=True))


def test_the_smaller_size_stays_for_the_steps_after(run: Run) -> None:
    step = Step(MemoryError(), 1)
    fit = _fit(run, step, PLAN)
    fit(step)
    fit(step)
    assert step.sizes == [8192, 4096, 4096]


def test_the_smaller_size_is_written_into_the_plan_and_never_grows_again(run: Run) -> None:
    _fit(run, Step(), PLAN)(Step(MemoryError(), 1))
    kept = keep(run, PLAN, Silent())
    assert (kept.micro_tokens, kept.recompute, kept.why) == (4096, False, "memory ran out with more")
    shrink(run, 8192, True)  # another process of the step, which found its own limit elsewhere
    kept = keep(run, PLAN, Silent())
    assert (kept.micro_tokens, kept.recompute) == (4096, True)
    told = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    assert [line["micro_tokens"] for line in told if line["event"] == "memory ran out"] == [4096, 4096]


def test_a_run_that_goes_on_begins_with_what_memory_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, sizes, left = sft.add_gradient, [], [3]

    def tight(base: Any, rows: Any, learned: int, most: int, *rest: Any) -> Any:
        sizes.append(most)
        if most > 2048:
            raise RuntimeError(CPU)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return learn(base, rows, learned, most, *rest)

    monkeypatch.setattr(sft, "add_gradient", tight)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert sizes == [8192, 4096, 2048, 2048, 2048]
    sizes.clear()
    _, record = train(tmp_path / "run")
    assert record.steps == 8 and set(sizes) == {2048}


def test_the_last_way_out_is_to_compute_layers_again_and_then_it_fails_with_a_word(run: Run) -> None:
    step = Step(MemoryError(), 100, fails_at=0)
    switched: list[str] = []
    step.model.activation_checkpointing_enable = lambda *told: switched.append("on")  # type: ignore[assignment]
    said: list[str] = []
    fit = _fit(run, step, replace(PLAN, micro_tokens=64), "auto", said)
    with pytest.raises(ResourceError, match=r"one example at a time.*--max-tokens below 30"):
        fit(step)
    assert step.sizes == [64, 32, 1, 1] and switched == ["on"]
    assert ["32 tokens" in said[0], "one example" in said[1], "computed again" in said[2]] == [True] * 3
    never = Step(MemoryError(), 100, fails_at=0)
    with pytest.raises(ResourceError):
        _fit(run, never, replace(PLAN, micro_tokens=1), "never")(never)
    assert never.sizes == [1]


def test_other_errors_pass_through(run: Run) -> None:
    step = Step(RuntimeError("shapes do not match"), 1)
    with pytest.raises(RuntimeError, match="shapes"):
        _run(run, step, PLAN)
    assert not out_of_memory(ValueError("no")) and out_of_memory(RuntimeError("std::bad_alloc"))


def test_models_of_transformers_compute_layers_again_with_the_same_gradients(run: Run) -> None:
    found: list[Any] = []
    for on in (False, True):
        step = Step()
        recompute(step.model, on)
        found.append(_run(run, step, replace(PLAN, recompute=on))[1])
    assert found[0] and all(torch.equal(one, other) for one, other in zip(*found, strict=True))
