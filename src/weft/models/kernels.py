"""The arithmetic that a decoder repeats in every layer, each with the backward pass written out.

Autograd would keep every intermediate; these keep their inputs and little else, and write their products into one
buffer. Sums run in float32 whatever the number format of the states. States are flat: (T, …), one row per token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide = grads[0].float()
        normal = x.float().mul_(inverse)
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (wide * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, by_weight, None
        wide = wide * weight
        along = (wide * normal).mean(-1, keepdim=True)
        return wide.sub_(normal.mul_(along)).mul_(inverse).to(x.dtype), by_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + eps) · weight over the last dimension, in x's number format (Zhang and Sennrich 2019)."""
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[return-value]


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, halves rotated against each other): x (T, heads, D); cos, sin (T, D / 2)."""
    return _Rotated.apply(x, cos, sin)  # type: ignore[return-value]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    first, second = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.empty_like(x)
    half = x.shape[-1] // 2
    turned[..., :half] = torch.mul(first, cos).addcmul_(second, sin, value=-way)
    turned[..., half:] = torch.mul(second, cos).addcmul_(first, sin, value=way)
    return turned


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        kept: Tensor | None,
    ) -> Tensor:
        narrow_down, narrow_up = down.to(x.dtype), up.to(x.dtype)
        inner = (x if kept is None else x * kept) @ narrow_down.T
        y = functional.linear(x, weight, bias)
        y.addmm_(inner, narrow_up.T, alpha=scale)
        ctx.save_for_backward(x, weight, narrow_down, narrow_up, inner, kept)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner, kept = ctx.saved_tensors
        grad = grads[0]
        by_inner = (grad @ up).mul_(ctx.scale)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = grad @ weight
            if kept is None:
                by_x.addmm_(by_inner, down)
            else:
                by_x.addcmul_(by_inner @ down, kept)
        by_down = (by_inner.T @ (x if kept is None else x * kept)).float()
        by_up = (grad.T @ inner).float().mul_(ctx.scale)
        return by_x, None, None, by_down, by_up, None, None


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, kept: Tensor | None = None
) -> Tensor:
    """x Wᵀ + bias + scale (x Aᵀ) Bᵀ with W frozen: x (T, in), W (out, in), A = `down` (r, in), B = `up` (out, r).

    `kept`: what the adapter sees x multiplied by, (T, in) of zeros and ones in x's number format; None: all of it.
    A and B are float32 and multiplied in x's number format; their gradients come in float32.
    """
    return _AdaptedLinear.apply(x, weight, bias, down, up, scale, kept)  # type: ignore[return-value]


def kept_at_random(x: Tensor, dropout: float) -> Tensor:
    """Ones, and zeros with the probability `dropout`, as many as x has numbers and in its format.

    On a CPU torch draws numbers one after another, where one draw of 64 bits serves four; `dropout` is rounded to
    1/65536 there, and below 1.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x).bernoulli_(1 - dropout)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    drawn = draws.view(torch.int16)[: x.numel()].view(x.shape)
    dropped = min(round(dropout * 2**16), 2**16 - 1)
    return (drawn >= dropped - 2**15).to(x.dtype)
