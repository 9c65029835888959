"""Attention for short rows on a CPU: plain matrix products where torch's fused kernel is slower, the kernel elsewhere.

Below SHORT tokens the fused CPU kernel spends most of its time outside matrix products (it was a quarter of a training
step of the embedded base at 105 tokens, and a third of decoding 64 rows). Long stretches, dropout and capped scores
go to transformers' `sdpa` unchanged. Equal to it up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

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
    """query (B, H, T, D); key, value (B, K, S, D) with K dividing H; mask (B or 1, 1, T, S) → (B, T, H, D)."""
    if not _ours(module, query, key, attention_mask, options):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return over_rows(query, key, value, attention_mask, options.get("scaling")), None


def over_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """query (B, H, T, D); key, value (B, K, S, D) with K dividing H; mask (B or 1, 1, T, S) → (B, T, H, D).

    Without a mask the queries are the last T of the S places and see all before them.
    """
    rows, heads, length, width = query.shape
    kept, seen = key.shape[1], key.shape[2]
    factor = width**-0.5 if scale is None else scale
    if length >= SHORT:
        return _kernel(query, key, value, mask, factor)
    group = heads // kept
    # The query heads of one key head are laid end to end, so keys are never repeated in memory.
    folded = (query * factor).reshape(rows * kept, group * length, width)
    scores = torch.bmm(folded, key.reshape(rows * kept, seen, width).transpose(1, 2))
    scores = _masked(scores.view(rows, heads, length, seen), mask)
    weights = scores.softmax(-1).view(rows * kept, group * length, seen)
    out = torch.bmm(weights, value.reshape(rows * kept, seen, width))
    return out.view(rows, heads, length, width).transpose(1, 2).contiguous()


def _kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's own attention, for long stretches."""
    length, seen = query.shape[2], key.shape[2]
    if mask is None and length != seen:
        mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(seen - length)[None, None]
    grouped = query.shape[1] != key.shape[1]
    out = scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous()


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (B, H, T, S) without what may not be seen: by the mask (True: seen; or numbers to add), else by time."""
    length, seen = scores.shape[-2:]
    # The smallest number rather than minus infinity: a row that sees nothing (padding) must not become NaN.
    lowest = torch.finfo(scores.dtype).min
    if mask is None:
        later = torch.ones(length, seen, dtype=torch.bool, device=scores.device).triu(seen - length + 1)
        return scores.masked_fill(later, lowest)
    return scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask


def _ours(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether this is plain attention of a short stretch: causal over whole rows, or by a mask that says it all."""
    length, seen = query.shape[2], key.shape[2]
    if options.get("dropout") or options.get("softcap") or length >= SHORT:
        return False
    if mask is not None:
        return mask.shape[-2:] == (length, seen)
    causal = getattr(module, "is_causal", False) and options.get("is_causal") is not False
    return causal and not options.get("sliding_window") and (length == seen or length == 1)
