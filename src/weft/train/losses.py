"""What training minimises: pure functions of log-probabilities, which a handful of numbers on paper can check.

    nll   likelihood of the learned tokens
    dpo   Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290, equation 7 (`sigmoid`);
          Azar et al. 2023, "A General Theoretical Paradigm …", arXiv:2310.12036, equation 17 (`ipo`)

Nothing is logged, moved or averaged over steps here. Label smoothing is left out: it needs the mean log-probability
over the vocabulary, which the forward pass does not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PreferenceLoss = Literal["sigmoid", "ipo"]


def nll(logprobs: Tensor, weights: Tensor | float) -> Tensor:
    """Negative log-likelihood, a scalar. `logprobs` (N,) of the learned tokens of a part of an optimizer step.

    `weights` (N,), or one for all: each token's share of the step. Over the whole step they sum to 1, whatever the
    parts, so the parts' losses and gradients add up to those of the step.
    """
    return -(logprobs * weights).sum()


def per_leaf(logprobs: Tensor, counts: Sequence[int]) -> Tensor:
    """Log-probability of each reply (L,): sums over its `counts[l]` learned tokens; `logprobs` (N,) has all."""
    return torch.stack([part.sum() for part in logprobs.split(list(counts))])


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    loss: PreferenceLoss = "sigmoid",
) -> Tensor:
    """Loss of each pair (P,) from the log-probabilities (P,) of both replies by the learner and by the reference.

    For `sigmoid` they are sums over a reply's tokens, for `ipo` means per token (as TRL 1.16 has it, confirmed there by
    the paper's authors: sums would make the target depend on the length). `beta` above 0: the smaller, the further the
    learner may go from the reference.
    """
    gain = (chosen - ref_chosen) - (rejected - ref_rejected)
    if loss == "ipo":
        return (gain - 1 / (2 * beta)) ** 2
    return -functional.logsigmoid(beta * gain)


def rewards(logprobs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The reward that a learner of this likelihood is optimal for, up to a constant per prompt (paper, section 4)."""
    return beta * (logprobs - reference)
