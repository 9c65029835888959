"""The settings of supervised fine-tuning, apart from its loop so that `weft train --help` need not load torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weft.train.tuning_config import TuningConfig


class SftConfig(TuningConfig):
    """Supervised fine-tuning."""

    learn: Literal["last", "all"] = "last"
    """Learn the last reply of a conversation, or all replies in it."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while learning (NEFTune, Jain et al. 2023, arXiv:2310.05914: 5 to 15); 0: none."""
