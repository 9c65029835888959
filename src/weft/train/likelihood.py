"""What methods that raise the likelihood of tokens do with rows: add a gradient, and look at a loss.

`sft` learns replies and `pretrain` documents; to the model both are rows with learned tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from weft.forest.logprobs import learned_tokens
from weft.models.load import Base
from weft.models.precision import numbers
from weft.records import Tokens
from weft.train.answering import only_answering
from weft.train.batches import micro_batches
from weft.train.losses import nll, smoothed
from weft.train.neftune import noisy_embeddings
from weft.train.tuning_config import LikelihoodConfig


@dataclass(frozen=True)
class Told:
    """What a forward pass over rows told: a loss in nats, and in how many learned tokens no other was likelier."""

    loss: float
    right: int


def add_gradient(
    base: Base, rows: Sequence[Tokens], learned: int, most: int, config: LikelihoodConfig, noise: float = 0.0
) -> Told:
    """Add the rows' gradient of the mean over the step's `learned` tokens; tells their part of the loss.

    `most`: tokens of a forward pass. `noise`: NEFTune's alpha.
    """
    loss, right = 0.0, 0
    for part in micro_batches(base.model, rows, most):
        with numbers(base.model, config.precision), noisy_embeddings(base.model, noise, part):
            given = learned_tokens(base.model, part, means=bool(config.label_smoothing))
            if given.means is None:
                part_loss = nll(given.logprobs, 1 / learned)
            else:
                part_loss = smoothed(given.logprobs, given.means, 1 / learned, config.label_smoothing)
        part_loss.backward()
        loss += float(part_loss.detach())
        right += int(given.right.sum())
    return Told(loss, right)


def step_measures(told: Iterable[Told], learned: int) -> dict[str, float]:
    """The step's `loss` and the share of its `learned` tokens that no other token beat, from its parts."""
    parts = list(told)
    return {"loss": sum(part.loss for part in parts), "token_accuracy": sum(part.right for part in parts) / learned}


def look(base: Base, rows: Sequence[Tokens], most: int, config: LikelihoodConfig) -> dict[str, float]:
    """The mean `loss` over all learned tokens, in nats and without smoothing, and the `token_accuracy`, unlearned.

    Nothing where there are no rows.
    """
    if not rows:
        return {}
    with only_answering(base, config):
        parts = [learned_tokens(base.model, part) for part in micro_batches(base.model, rows, most)]
    loss = -float(torch.cat([part.logprobs for part in parts]).mean())
    return {"loss": loss, "token_accuracy": float(torch.cat([part.right for part in parts]).float().mean())}
