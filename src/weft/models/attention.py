"""Attention for short rows on a CPU: plain matrix products where torch's fused kernel is slower, the kernel elsewhere.

Below SHORT tokens the fused CPU kernel spends most of its time outside matrix products (it was a quarter of a training
step of the embedded base at 105 tokens). Everything that is not plain causal attention over whole rows (padding masks,
a cache, sliding windows, dropout, capped scores) goes to transformers' `sdpa` unchanged. Equal to it up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "weft_short_rows"
SHORT = 512


def use(model: Any) -> None:
    """Let a transformers model on the CPU attend this way from now on; models that do not take it stay as they are."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """query (B, H, T, D); key, value (B, K, S, D) with K dividing H → (B, T, H, D)."""
    if not _plain(module, query, key, attention_mask, options):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, heads, length, width = query.shape
    kept = key.shape[1]
    group = heads // kept
    scale = options.get("scaling") or width**-0.5
    # The query heads of one key head are laid end to end, so keys are never repeated in memory.
    folded = (query * scale).reshape(rows * kept, group * length, width)
    scores = torch.bmm(folded, key.reshape(rows * kept, length, width).transpose(1, 2))
    scores = scores.view(rows * kept, group, length, length)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1).view(rows * kept, group * length, length)
    out = torch.bmm(weights, value.reshape(rows * kept, length, width))
    return out.view(rows, heads, length, width).transpose(1, 2).contiguous(), None


def _plain(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether this is causal attention of whole short rows and nothing else."""
    length = query.shape[2]
    causal = getattr(module, "is_causal", False) and options.get("is_causal") is not False
    special = options.get("dropout") or options.get("sliding_window") or options.get("softcap")
    return mask is None and causal and not special and 1 < length < SHORT and key.shape[2] == length
