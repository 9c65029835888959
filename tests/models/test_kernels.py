"""Each kernel is what autograd makes of its formula: the same values, the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weft.models import kernels

GENERATOR = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


X, GRAD, SCALES = _normal(7, 24), _normal(7, 24), 1 + 0.3 * _normal(24)
HEADS, ANGLES = _normal(7, 3, 8), _normal(7, 4)
KEPT = (_normal(7, 24) > -1).float()
WEIGHT, BIAS, DOWN, UP = _normal(24, 24) / 5, _normal(24), _normal(4, 24) / 5, _normal(24, 4) / 2


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def _turned(x: Tensor) -> Tensor:
    """Each pair (x[i], x[i + D / 2]) as a complex number, turned by its angle."""
    pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(ANGLES), ANGLES)[:, None].to(
        x.dtype.to_complex()
    )
    return torch.cat([pairs.real, pairs.imag], -1)


def _adapted(x: Tensor, down: Tensor, up: Tensor, kept: Tensor | None = None) -> Tensor:
    kind = x.dtype
    seen = x if kept is None else x * kept.to(kind)
    return x @ WEIGHT.to(kind).T + BIAS.to(kind) + 1.7 * (seen @ down.T) @ up.T


def _with_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weights = torch.cos(torch.arange(out.numel())).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "rms_norm": (lambda x, weight: kernels.rms_norm(x, weight, 1e-5), _rms, (X, SCALES)),
    "rms_norm per head": (lambda x, weight: kernels.rms_norm(x, weight, 1e-5), _rms, (HEADS, SCALES[:8])),
    "rotated": (lambda x: kernels.rotated(x, ANGLES.cos(), ANGLES.sin()), _turned, (HEADS,)),
    "adapted_linear": (
        lambda x, down, up: kernels.adapted_linear(x, WEIGHT.to(x.dtype), BIAS.to(x.dtype), down, up, 1.7),
        _adapted,
        (X, DOWN, UP),
    ),
    "adapted_linear of what was kept": (
        lambda x, down, up: kernels.adapted_linear(
            x, WEIGHT.to(x.dtype), BIAS.to(x.dtype), down, up, 1.7, KEPT.to(x.dtype)
        ),
        lambda x, down, up: _adapted(x, down, up, KEPT),
        (X, DOWN, UP),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    kernel, formula, inputs = CASES[name]
    truth = _with_gradients(formula, tuple(x.double() for x in inputs))
    for ours, theirs in zip(_with_gradients(kernel, inputs), truth, strict=True):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_states_stay_within_their_rounding(name: str) -> None:
    kernel, formula, (x, *rest) = CASES[name]
    narrow = x.bfloat16()
    truth = _with_gradients(formula, (narrow.double(), *(other.double() for other in rest)))
    found = _with_gradients(kernel, (narrow, *rest))
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in found[2:])  # what is trained stays exact
    for ours, theirs in zip(found, truth, strict=True):
        assert (ours.double() - theirs).norm() <= 1e-2 * theirs.norm()


def test_rotation_keeps_lengths_and_turning_back_gives_the_same_again() -> None:
    there = kernels.rotated(HEADS, ANGLES.cos(), ANGLES.sin())
    assert torch.allclose(there.norm(dim=-1), HEADS.norm(dim=-1), atol=1e-5)
    assert torch.allclose(kernels.rotated(there, ANGLES.cos(), -ANGLES.sin()), HEADS, atol=1e-5)


def test_an_adapted_layer_without_bias_or_gradient_by_its_input() -> None:
    down, up = DOWN.clone().requires_grad_(), UP.clone().requires_grad_()
    kernels.adapted_linear(X, WEIGHT, None, down, up, 0.5).backward(GRAD)
    first, second = DOWN.clone().requires_grad_(), UP.clone().requires_grad_()
    (X @ WEIGHT.T + 0.5 * (X @ first.T) @ second.T).backward(GRAD)
    assert torch.allclose(down.grad, first.grad, atol=1e-5) and torch.allclose(up.grad, second.grad, atol=1e-5)  # type: ignore[arg-type]


def test_a_frozen_norm_gives_a_gradient_to_its_input_alone() -> None:
    x = X.clone().requires_grad_()
    kernels.rms_norm(x, SCALES, 1e-5).backward(GRAD)
    other = X.clone().requires_grad_()
    _rms(other, SCALES).backward(GRAD)
    assert torch.allclose(x.grad, other.grad, atol=1e-5)  # type: ignore[arg-type]


def test_no_kernel_keeps_more_than_its_inputs_and_one_number_per_row() -> None:
    kept: list[int] = []
    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        kernels.rms_norm(x, SCALES, 1e-5)
    assert sum(kept) == X.numel() + SCALES.numel() + len(X)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        kernels.rotated(HEADS.clone().requires_grad_(), ANGLES.cos(), ANGLES.sin())
    assert sum(kept) == 2 * ANGLES.numel()


@pytest.mark.parametrize("shape", [(3, 1), (401, 255)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_dropout_keeps_is_ones_and_zeros_in_their_shares(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept = kernels.kept_at_random(torch.empty(shape, dtype=dtype), 0.1)
    assert kept.shape == shape and kept.dtype == dtype and set(kept.float().unique().tolist()) <= {0.0, 1.0}
    if kept.numel() > 1000:
        columns = kept.float().mean(0)  # four neighbours come of one draw
        assert (
            abs(float(kept.float().mean()) - 0.9) < 0.004 and 0.82 < float(columns.min()) < float(columns.max()) < 0.97
        )
        pairs = (kept[:, :-1] * kept[:, 1:]).float().mean()
        assert abs(float(pairs) - 0.81) < 0.006
    assert float(kernels.kept_at_random(torch.empty(401, 255), 0.9999999).mean()) < 0.001
    assert float(kernels.kept_at_random(torch.empty(401, 255), 0.0).mean()) == 1
    torch.manual_seed(0)
    assert torch.equal(kept, kernels.kept_at_random(torch.empty(shape, dtype=dtype), 0.1))
    assert not torch.equal(
        kernels.kept_at_random(torch.empty(401, 255), 0.1), kernels.kept_at_random(torch.empty(401, 255), 0.1)
    )
