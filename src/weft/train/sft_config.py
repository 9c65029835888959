"""The settings of supervised fine-tuning, apart from its loop so that `weft train --help` need not load torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weft.train.tuning_config import LikelihoodConfig


class SftConfig(LikelihoodConfig):
    """Supervised fine-tuning."""

    learn: Literal["last", "all"] = "last"
    """Learn the last reply of a conversation, or all replies in it; where messages have a `weight`, that decides."""
    stop_on: str = "loss"
    """What early stopping and the choice of the best go by: the validation `loss`, or a score of the task's graders."""
    stop_rows: int = Field(default=64, ge=1)
    """Most validation rows that are answered at each look where `stop_on` is a score."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while learning (NEFTune, Jain et al. 2023, arXiv:2310.05914: 5 to 15); 0: none."""
