"""The numbers that learn, their optimizer, and the best of them so far.

Which these are (an adapter, rows of the vocabulary, with `full` everything) and at what rate each learns is decided
here; when a step is due, what is measured and when it is saved is the affair of `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weft.models import lora
from weft.models.load import Base
from weft.models.token_rows import tables_with_rows
from weft.train import pieces, processes
from weft.train.adamw import AdamW
from weft.train.sharded import shard
from weft.train.tuning_config import TuningConfig
from weft.train.vocabulary import RATE


class Learner:
    """Makes a base learn, in place. What it is at the start, and at its best, is kept beside."""

    parameters: list[nn.Parameter]
    """What learns, float32. With `full` each process of a torchrun holds a piece of each, and of all that is kept
    beside: its gradient, moments, first and best values."""
    best: list[Tensor]
    """As they were when `keep` was called last; at first as at the start."""
    optimizer: AdamW

    def __init__(self, base: Base, config: TuningConfig, tokens: Sequence[int] = ()) -> None:
        """`tokens`: whose rows of the vocabulary learn beside the adapter. Seeds torch's generator."""
        self.parameters = _trainable(base, config, tokens)
        self._initial = [parameter.detach().clone() for parameter in self.parameters]
        self.best = [parameter.detach().clone() for parameter in self.parameters]
        torch.manual_seed(config.seed)  # dropout and noise draw from the global generator
        groups = _groups(base.model, self.parameters, config.lora_plus_ratio)
        self.optimizer = AdamW(groups, config.weight_decay)

    def clip(self, norm: float) -> float:
        """Scale the gradient down to at most this norm; returns what it was."""
        return float(pieces.whole(nn.utils.clip_grad_norm_(self.parameters, norm)))

    def step(self, rate: float) -> None:
        """One step of the optimizer at `rate`, and the gradients gone."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        self.optimizer.step()
        self.optimizer.forget_gradients()

    def keep(self) -> None:
        """Take the parameters for the best."""
        _copy(self.parameters, self.best)

    def put_best_back(self) -> None:
        """The parameters are the best again."""
        _copy(self.best, self.parameters)

    @property
    def moved(self) -> bool:
        """Whether the best differ from the first."""
        pairs = zip(map(pieces.own, self.best), map(pieces.own, self._initial), strict=True)
        return any(processes.everyones(not all(torch.equal(kept, first) for kept, first in pairs)))


def _trainable(base: Base, config: TuningConfig, tokens: Sequence[int]) -> list[nn.Parameter]:
    if not config.full:
        return lora.wrap(base.model, config.lora, config.seed, tokens=tokens)
    base.model.requires_grad_(True)
    if processes.count() > 1:
        shard(base.model)
    return list(base.model.parameters())


def _groups(model: nn.Module, parameters: Sequence[nn.Parameter], ratio: float) -> list[dict[str, Any]]:
    """AdamW's groups with their rate over the common one: rows of the vocabulary, and with LoRA+ the B matrices."""
    own = {id(layer.lora_B): ratio for layer in lora.layers(model).values()}
    own |= {id(table.rows): RATE for table in tables_with_rows(model).values()}
    rates = [own.get(id(parameter), 1.0) for parameter in parameters]
    return [
        {"params": [parameter for parameter, its in zip(parameters, rates, strict=True) if its == rate], "ratio": rate}
        for rate in dict.fromkeys(rates)
    ]


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for given, place in zip(source, target, strict=True):
            place.copy_(given)
