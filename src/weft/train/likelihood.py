"""What methods that raise the likelihood of tokens do with rows: add a gradient, and look at a loss.

`sft` learns replies and `pretrain` documents; to the model both are rows with learned tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.forest.logprobs import learned_logprobs
from weft.models.load import Base
from weft.models.precision import numbers
from weft.records import Tokens
from weft.train.batches import MICRO_TOKENS, micro_batches
from weft.train.losses import nll
from weft.train.neftune import noisy_embeddings
from weft.train.steps import only_answering
from weft.train.tuning_config import TuningConfig


def add_gradient(base: Base, rows: Sequence[Tokens], learned: int, config: TuningConfig, noise: float = 0.0) -> float:
    """Add the rows' gradient of the mean over the step's `learned` tokens; returns their part of the loss, in nats.

    `noise`: NEFTune's alpha.
    """
    loss = 0.0
    for part in micro_batches(rows, MICRO_TOKENS):
        with numbers(base.model, config.precision), noisy_embeddings(base.model, noise, part):
            part_loss = nll(learned_logprobs(base.model, part), 1 / learned)
        part_loss.backward()
        loss += float(part_loss.detach())
    return loss


def mean_loss(base: Base, rows: Sequence[Tokens], config: TuningConfig) -> float:
    """Mean over all learned tokens, in nats, without learning."""
    with only_answering(base, config):
        parts = [learned_logprobs(base.model, part) for part in micro_batches(rows, MICRO_TOKENS)]
    return -float(torch.cat(parts).mean())
