"""The losses against numbers on paper and against their published formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from weft.train.losses import dpo, nll, per_leaf, rewards


def _replies(seed: int, count: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [-30 * torch.rand(count, generator=generator, dtype=torch.float64) for _ in range(4)]


def test_nll_is_the_mean_over_the_step_whatever_its_parts() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -6.0])
    assert float(nll(logprobs, 1 / 4)) == 3.0
    assert float(nll(logprobs[:1], 1 / 4) + nll(logprobs[1:], 1 / 4)) == 3.0
    # Weights of tokens: the first counts nothing, the last twice.
    assert float(nll(logprobs, torch.tensor([0.0, 1.0, 1.0, 2.0]) / 4)) == 17 / 4


def test_a_replys_logprob_is_the_sum_of_its_own_tokens() -> None:
    assert per_leaf(torch.tensor([-1.0, -2.0, -4.0]), [2, 1]).tolist() == [-3.0, -4.0]
    with pytest.raises(RuntimeError):  # a token that belongs to no reply
        per_leaf(torch.tensor([-1.0, -2.0, -4.0]), [2])


def test_dpo_of_a_learner_equal_to_its_reference_is_log_2_and_its_slope_half_beta() -> None:
    chosen, rejected, *_ = _replies(0)
    learner = chosen.clone().requires_grad_()
    loss = dpo(learner, rejected, chosen, rejected, beta=0.3)
    assert loss.tolist() == pytest.approx([math.log(2)] * 12)
    loss.sum().backward()
    assert learner.grad is not None and learner.grad.tolist() == pytest.approx([-0.15] * 12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_dpo_is_equation_7_of_the_paper(beta: float) -> None:
    chosen, rejected, ref_chosen, ref_rejected = _replies(1)
    # As printed: two ratios of probabilities inside one sigmoid.
    expected = -logsigmoid(
        beta * torch.log(chosen.exp() / ref_chosen.exp()) - beta * torch.log(rejected.exp() / ref_rejected.exp())
    )
    found = dpo(chosen, rejected, ref_chosen, ref_rejected, beta)
    assert (found - expected).abs().max() <= 1e-12
    # In float32, as training has it, against float64.
    rough = dpo(*(x.float() for x in (chosen, rejected, ref_chosen, ref_rejected)), beta)
    assert ((rough - expected).abs() / expected).max() <= 1e-5


def test_ipo_is_equation_17_of_its_paper() -> None:
    chosen, rejected, ref_chosen, ref_rejected = _replies(2)
    ratio = torch.log(chosen.exp() * ref_rejected.exp() / (rejected.exp() * ref_chosen.exp()))
    found = dpo(chosen, rejected, ref_chosen, ref_rejected, 0.1, "ipo")
    assert (found - (ratio - 1 / 0.2) ** 2).abs().max() <= 1e-10
    # At its target the loss is zero and does not pull any more.
    assert float(dpo(*(torch.tensor([x]) for x in (5.0, 0.0, 0.0, 0.0)), 0.1, "ipo")) == 0.0


def test_a_loss_that_is_far_off_stays_finite() -> None:
    far = [torch.tensor([x]) for x in (-1e4, 0.0, 0.0, 0.0)]
    assert float(dpo(*far, 0.1)) == pytest.approx(1e3)


def test_the_reward_is_beta_times_the_log_ratio() -> None:
    assert rewards(torch.tensor([-2.0]), torch.tensor([-5.0]), 0.1).tolist() == pytest.approx([0.3])
