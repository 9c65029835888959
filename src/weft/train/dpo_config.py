"""The settings of direct preference optimization, apart from its loop so that `weft train --help` needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from weft.train.tuning_config import TuningConfig, require_choice


class DpoConfig(TuningConfig):
    """Direct preference optimization on pairs of a better and a worse reply."""

    beta: float = Field(default=0.1, gt=0)
    """How dear it is to move away from the base: the smaller, the further (Rafailov et al. 2023, arXiv:2305.18290)."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """`sigmoid`: as DPO; `ipo`: a fixed margin per token, overfits less (Azar et al. 2023, arXiv:2310.12036)."""
    stop_on: Literal["loss", "reward_accuracy"] = "loss"
    """What early stopping and the choice of the best go by, on the validation pairs: the `loss`, or the share whose
    better reply gained more than the worse one."""

    _something_to_choose = field_validator("stop_on")(require_choice)
