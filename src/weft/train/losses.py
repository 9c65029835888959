"""What training minimises: pure functions of log-probabilities, which a handful of numbers on paper can check.

    nll   likelihood of the learned tokens; `smoothed`: with label smoothing (Szegedy et al. 2016, arXiv:1512.00567)
    dpo   Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290, equation 7 (`sigmoid`);
          Azar et al. 2023, "A General Theoretical Paradigm …", arXiv:2310.12036, equation 17 (`ipo`)

Nothing is logged, moved or averaged over steps here.
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


def smoothed(logprobs: Tensor, means: Tensor, weights: Tensor | float, smoothing: float) -> Tensor:
    """`nll` towards targets of which `smoothing` lies evenly on all tokens, as torch's cross_entropy has it; a scalar.

    `means` (N,): the mean log-probability of the whole vocabulary in each token's place.
    """
    return (1 - smoothing) * nll(logprobs, weights) + smoothing * nll(means, weights)


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
