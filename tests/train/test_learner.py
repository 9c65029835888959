"""What learns does so at its own rate, the best is kept beside and comes back, and standing still is seen."""

from __future__ import annotations

from typing import Any

import torch

from weft.models import lora
from weft.models.token_rows import tables_with_rows
from weft.testing import tiny_base
from weft.train.learner import Learner
from weft.train.sft_config import SftConfig
from weft.train.vocabulary import RATE


def _config(**values: Any) -> SftConfig:
    ready = {"learning_rate": 1e-2, "epochs": 1, "max_tokens": 256, "precision": "float32", "lora": {"r": 4}}
    return SftConfig.model_validate({**ready, **values})


def test_rows_of_the_vocabulary_and_b_matrices_have_their_own_rates() -> None:
    base = tiny_base()
    learner = Learner(base, _config(lora_plus_ratio=8), tokens=(5, 7))
    ratios = {id(p): group["ratio"] for group in learner.optimizer.param_groups for p in group["params"]}
    for layer in lora.layers(base.model).values():
        assert (ratios[id(layer.lora_A)], ratios[id(layer.lora_B)]) == (1.0, 8.0)
    (rows,) = {id(module.rows) for module in tables_with_rows(base.model).values()}
    assert ratios[rows] == RATE and len(ratios) == len(learner.parameters)
    for parameter in learner.parameters:
        parameter.grad = torch.ones_like(parameter)
    before = {id(parameter): parameter.detach().clone() for parameter in learner.parameters}
    learner.step(1e-3)  # AdamW's first step is the rate itself, whatever the gradient
    for parameter in learner.parameters:
        moved = before[id(parameter)] - parameter.detach()
        assert torch.allclose(moved, torch.full_like(moved, 1e-3 * ratios[id(parameter)]), rtol=1e-2)
        assert parameter.grad is None


def test_the_best_come_back_and_whether_they_moved_is_known() -> None:
    base = tiny_base()
    learner = Learner(base, _config(full=True))
    assert learner.parameters == list(base.model.parameters()) and not learner.moved
    first, second = (torch.zeros_like(learner.parameters[0]).add_(value) for value in (1, 2))
    for value, kept in ((first, True), (second, False)):
        learner.parameters[0].data.copy_(value)
        if kept:
            learner.keep()
    assert learner.moved and torch.equal(learner.parameters[0], second)
    learner.put_best_back()
    assert torch.equal(learner.parameters[0], first)


def test_a_gradient_is_scaled_down_to_the_norm_and_its_own_is_told() -> None:
    learner = Learner(tiny_base(), _config())
    for parameter in learner.parameters:
        parameter.grad = torch.ones_like(parameter)
    whole = sum(parameter.numel() for parameter in learner.parameters) ** 0.5
    assert abs(learner.clip(1.0) - whole) < 1e-3 * whole and abs(learner.clip(1.0) - 1.0) < 1e-3
