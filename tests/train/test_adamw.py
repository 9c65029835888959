"""The optimizer is torch's AdamW to the bit, reads its state, and does without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.train.adamw import AdamW


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((5, 3), (7,), (2, 2))]


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters[:1], "ratio": 1.0}, {"params": parameters[1:], "ratio": 0.25}]


def _walk(parameters: list[nn.Parameter], optimizer: Any, forget: Callable[[], None], steps: range) -> None:
    """Steps with gradients of their own, the last parameter without one in every second step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if step % 2:
            parameters[-1].grad = None
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1) * group["ratio"]
        optimizer.step()
        forget()


def _same(mine: list[nn.Parameter], theirs: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def _tensors(state: dict[int, dict[str, Tensor]]) -> dict[tuple[int, str], list[float]]:
    return {(i, name): value.flatten().tolist() for i, entries in state.items() for name, value in entries.items()}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_parameters_and_state_are_those_of_torch(decay: float) -> None:
    mine, theirs = _parameters(), _parameters()
    own = AdamW(_groups(mine), decay)
    peer = torch.optim.AdamW(_groups(theirs), lr=0.0, weight_decay=decay, fused=True)
    _walk(mine, own, own.forget_gradients, range(6))
    _walk(theirs, peer, peer.zero_grad, range(6))
    assert _same(mine, theirs) and all(parameter.grad is None for parameter in mine)
    assert _tensors(own.state_dict()["state"]) == _tensors(peer.state_dict()["state"])


def test_a_state_of_torch_is_gone_on_from() -> None:
    mine, theirs = _parameters(), _parameters()
    peer = torch.optim.AdamW(_groups(theirs), lr=0.0, weight_decay=0.1, fused=True)
    _walk(theirs, peer, peer.zero_grad, range(3))
    own = AdamW(_groups(mine), 0.1)
    own.load_state_dict(
        {"state": {i: {k: v.clone() for k, v in e.items()} for i, e in peer.state_dict()["state"].items()}}
    )
    with torch.no_grad():
        for parameter, other in zip(mine, theirs, strict=True):
            parameter.copy_(other)
    _walk(mine, own, own.forget_gradients, range(3, 6))
    _walk(theirs, peer, peer.zero_grad, range(3, 6))
    assert _same(mine, theirs)


def test_a_training_does_not_import_torch_s_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from weft.models.load import load\n"
        "from weft.train.learner import Learner\n"
        "from weft.train.sft_config import SftConfig\n"
        "ready = {'learning_rate': 1e-2, 'epochs': 1, 'max_tokens': 64, 'precision': 'float32'}\n"
        "learner = Learner(load('weft-nano'), SftConfig.model_validate(ready))\n"
        "for parameter in learner.parameters: parameter.grad = torch.ones_like(parameter)\n"
        "learner.clip(1.0)\n"
        "learner.step(1e-3)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
