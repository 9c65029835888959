"""Steps dealt to several processes: the gradients of one, failures in words, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from weft.errors import ResourceError, TrainError
from weft.forest.logprobs import learned_logprobs
from weft.models import lora
from weft.progress import Silent
from weft.records import Conversation, Message, Tokens
from weft.runs import Run
from weft.testing import tiny_base
from weft.train import crew as crews
from weft.train import sft
from weft.train.crew import Crew, hands, shares
from weft.train.sft_config import SftConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

ROWS = [Tokens((7, 8, 9, *range(10, 10 + n)), (False,) * 3 + (True,) * n) for n in (3, 9, 1, 5, 7, 2)]


@pytest.fixture
def adapted() -> tuple[nn.Module, list[nn.Parameter]]:
    model = tiny_base("llama").model
    parameters = lora.wrap(model, lora.LoraConfig(r=2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model, parameters


def _worked(model: nn.Module, parameters: list[nn.Parameter], count: int) -> tuple[list[float], list[torch.Tensor]]:
    def work(numbers: Sequence[int]) -> float:
        loss = -learned_logprobs(model, [ROWS[i] for i in numbers]).sum()
        loss.backward()
        return float(loss.detach())

    with Crew(work, parameters, count) as crew:
        for parameter in parameters:
            parameter.grad = None
        told = crew([(part,) for part in shares(ROWS, count)])
        return told, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def test_several_hands_find_the_gradients_of_one(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    alone, expected = _worked(*adapted, 1)
    for count in (2, 3):
        told, found = _worked(*adapted, count)
        assert len(told) == count and sum(told) == pytest.approx(sum(alone), rel=1e-6)
        for one, other in zip(found, expected, strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()


def test_what_is_learned_reaches_the_other_processes(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    _, parameters = adapted

    def work(place: int) -> float:
        return float(parameters[place].detach().sum())

    with Crew(work, parameters, 2) as crew, torch.no_grad():
        for step in range(3):
            for parameter in parameters[:2]:
                parameter.fill_(step)
            assert crew([(0,), (1,)]) == [step * parameter.numel() for parameter in parameters[:2]]


def test_each_process_draws_its_own_and_the_same_again_from_the_same_state(
    adapted: tuple[nn.Module, list[nn.Parameter]],
) -> None:
    def drawn() -> list[list[float]]:
        with Crew(lambda _: torch.rand(()).item(), adapted[1], 3) as crew:
            return [crew([(0,), (1,), (2,)]) for _ in range(2)]

    torch.manual_seed(5)
    first = drawn()
    torch.manual_seed(5)
    assert drawn() == first
    assert len({number for step in first for number in step}) == 6


def test_every_row_has_one_share_and_shares_are_even() -> None:
    rows = [Tokens((1,) * (5 + n % 7), (False,) * (5 + n % 7)) for n in range(40)]
    parts = shares(rows, 4)
    assert sorted(row for part in parts for row in part) == list(range(40))
    sizes = [sum(len(rows[row].ids) for row in part) for part in parts]
    assert max(sizes) - min(sizes) <= 2 * 11
    assert shares(rows[:1], 4) == [[0]]


def test_only_small_adapted_models_share_a_step(
    adapted: tuple[nn.Module, list[nn.Parameter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = adapted
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert hands(model, 16) == crews.MOST
    assert hands(model, 2) == 2
    monkeypatch.setattr(crews, "SMALL", 10)
    assert hands(model, 16) == 1
    monkeypatch.undo()
    model.requires_grad_(True)
    assert hands(model, 16) == 1


def test_a_failure_elsewhere_is_raised_here(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    def work(place: int) -> float:
        if place:
            raise TrainError("row 3 cannot be learned")
        return 0.0

    with Crew(work, adapted[1], 2) as crew, pytest.raises(TrainError, match="row 3 cannot be learned"):
        crew([(0,), (1,)])
    assert not multiprocessing.active_children()


def test_a_process_that_is_ended_from_outside_is_named(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    def work(place: int) -> float:
        if place:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    with (
        Crew(work, adapted[1], 2) as crew,
        pytest.raises(ResourceError, match=r"ended from outside.*OMP_NUM_THREADS=1"),
    ):
        crew([(0,), (1,)])


def test_more_parts_than_hands_are_refused(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    with Crew(lambda place: place, adapted[1], 1) as crew, pytest.raises(TrainError, match="2 parts for 1 hands"):
        crew([(0,), (1,)])


def test_two_hands_publish_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "hands", lambda *_, **__: 2)
    monkeypatch.setattr(sft, "hands", lambda *_, **__: 2)
    turns = [(Message("user", f"say {n % 4}"), Message("assistant", "abcd"[n % 4] * 3)) for n in range(12)]
    examples = [Conversation(messages, n) for n, messages in enumerate(turns)]
    config = SftConfig(epochs=2, learning_rate=1e-2, precision="float32", max_tokens=64, validate_every=3, batch_size=4)
    found = []
    for name in ("one", "two"):
        run = Run.create(tmp_path / name, {"run": {}})
        sft.train(run, tiny_base("llama"), examples, examples[:3], config, Silent())
        found.append(run.path("adapter/adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_nothing_is_left_running(adapted: tuple[nn.Module, list[nn.Parameter]]) -> None:
    before = torch.get_num_threads()
    _worked(*adapted, 3)
    assert not multiprocessing.active_children()
    assert torch.get_num_threads() == before
