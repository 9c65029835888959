"""Attention for training on a CPU without a mask tensor: plain products for short rows, torch's fused kernel for long
ones.

On one core torch's fused CPU kernel is the slower of the two below 512 tokens (it was 31 % of a step at 128). Numbers
agree with `sdpa` to rounding; only the speed differs, and the exported config says `sdpa` as usual.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAME = "weft_short_rows"


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Causal attention. query (B, H, T, D); key, value (B, K, T, D) with K dividing H; returns (B, T, H, D)."""
    rows, heads, length, width = query.shape
    shared = key.shape[1]
    if length >= 512:
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != shared
        )
        return out.transpose(1, 2).contiguous(), None
    group = heads // shared
    # Query heads of one key head are laid end to end, so keys are never repeated in memory.
    folded = query.reshape(rows * shared, group * length, width)
    scores = torch.bmm(folded * scaling, key.reshape(rows * shared, length, width).transpose(1, 2)).view(
        -1, group, length, length
    )
    position = torch.arange(length, device=query.device)
    scores = scores.masked_fill(position[None, :] > position[:, None], -1e4)
    weights = torch.softmax(scores, dim=-1).to(value.dtype).view(rows * shared, group * length, length)
    out = torch.bmm(weights, value.reshape(rows * shared, length, width))
    return out.view(rows, heads, length, width).transpose(1, 2).contiguous(), None


def use(model: nn.Module) -> None:
    """Make a transformers model use `attend` from now on (batches without padding on the left only)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
