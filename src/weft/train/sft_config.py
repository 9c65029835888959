"""The settings of supervised fine-tuning, apart from its loop so that `weft train --help` need not load torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from weft.train.tuning_config import LikelihoodConfig, require_choice


class SftConfig(LikelihoodConfig):
    """Supervised fine-tuning."""

    learn: Literal["last", "all"] = "last"
    """Learn the last reply of a conversation, or all replies in it; where messages have a `weight`, that decides."""
    stop_on: str = "loss"
    """What early stopping and the choice of the best go by: the validation `loss`, or a score of the task's
    graders (with `dpo` the `reward_accuracy` of the validation pairs)."""
    stop_rows: int = Field(default=64, ge=1)
    """Most validation rows that are answered at each look where `stop_on` is a score."""
    bpe_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Chance that a merge of the tokenizer is left out in a question, anew in every epoch, so that its words come in
    other pieces (BPE-dropout, Provilkov et al. 2020, arXiv:1910.13267); `auto`: 0.1 for labels on bases of under 50
    million parameters, else none."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while learning (NEFTune, Jain et al. 2023, arXiv:2310.05914: 5 to 15); 0: none."""

    _something_to_choose = field_validator("stop_on")(require_choice)

    @property
    def merges_left_out(self) -> float:
        """`bpe_dropout` as a number: none where nothing has said what `auto` means."""
        return 0.0 if self.bpe_dropout == "auto" else self.bpe_dropout
