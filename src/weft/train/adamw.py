"""AdamW as torch computes it (fused, decoupled weight decay), called as the function that its class calls.

The class itself imports torch's compiler when it is made, which costs every start of a training time and memory though
nothing is compiled (`scripts/bench start`). State has torch's names and shapes: a checkpoint written by either is read
by the other.
Loshchilov and Hutter 2019, arXiv:1711.05101; pytorch/pytorch 2.13, `torch/optim/adam.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from weft.train.pieces import apart, own


class AdamW:
    """Moves parameters against their gradients. Each group is a dict with `params` and what else its owner keeps."""

    def __init__(self, groups: Sequence[dict[str, Any]], weight_decay: float) -> None:
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        self._weight_decay = weight_decay
        self._state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        """One step of each group at its `lr`; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._state |= {parameter: _fresh(parameter) for parameter in moved if parameter not in self._state}
            states = [self._state[parameter] for parameter in moved]
            adam(
                [own(parameter) for parameter in moved],
                [own(parameter.grad) for parameter in moved if parameter.grad is not None],
                [own(state["exp_avg"]) for state in states],
                [own(state["exp_avg_sq"]) for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                decoupled_weight_decay=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=group["lr"],
                weight_decay=self._weight_decay,
                eps=1e-8,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        """Parameters have no gradient any more."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """`state`: by the parameter's number in order of the groups, its `step`, `exp_avg` and `exp_avg_sq`."""
        numbered = enumerate(self._parameters)
        return {"state": {number: self._state[p] for number, p in numbered if p in self._state}}

    def load_state_dict(self, packed: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, whole, on the parameters' devices and sharded as they are."""
        parameters = self._parameters
        self._state = {
            parameters[number]: {name: _put(value, parameters[number]) for name, value in entries.items()}
            for number, entries in packed["state"].items()
        }


def _fresh(parameter: nn.Parameter) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _put(value: Tensor, parameter: nn.Parameter) -> Tensor:
    return apart(value, parameter) if value.ndim else value.to(parameter.device)  # `step` is a number
