"""From rendered rows to log-probabilities of their learned tokens: the one forward pass that learning stands on.

A `Decoder` runs over the forest of the rows; any other causal model of transformers over the padded rows, slower and
equal. Logits exist only where something is learned, a chunk at a time, and never wait for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.forest.attention import ForestAttention
from weft.forest.build import plant
from weft.models.decoder import Decoder
from weft.records import Tokens

LOGITS = 16_000_000
"""Most logits held at once, as numbers."""


def learned_logprobs(model: nn.Module, rows: Sequence[Tokens]) -> Tensor:
    """Log-probability of every learned token, row after row: (N,) float32 where N = sum of `learn` over the rows.

    The first token of a row cannot be learned (nothing precedes it) and must not be marked.
    """
    if not any(any(row.learn) for row in rows):
        return next(model.parameters()).new_zeros(0, dtype=torch.float32)
    return _over_forest(model, rows) if isinstance(model, Decoder) else _padded(model, rows)


def _over_forest(model: Decoder, rows: Sequence[Tokens]) -> Tensor:
    device = model.model.embed_tokens.weight.device
    forest = plant(rows)
    keep, sources = np.unique(forest.sources, return_inverse=True)
    ids, positions, kept, states, targets = (
        torch.from_numpy(array).to(device) for array in (forest.ids, forest.positions, keep, sources, forest.targets)
    )
    hidden = model.states(ids, positions, ForestAttention(forest, keep, device), kept)
    if isinstance(model.lm_head, nn.Linear):
        return token_logprobs(hidden, model.lm_head.weight, states, targets)
    logits = model.lm_head(hidden).float().log_softmax(-1)  # an adapted head: autograd knows its way
    return logits[states, targets]


def _padded(model: nn.Module, rows: Sequence[Tokens]) -> Tensor:
    """Rows padded on the right, where a causal model cannot look, so no mask is needed."""
    device = next(model.parameters()).device
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    learn = torch.tensor([list(row.learn) + [False] * (width - len(row.ids)) for row in rows], device=device)
    columns = learn.any(0).nonzero().squeeze(-1) - 1  # the states that predict some learned token
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits  # (B, columns, V)
    chosen = learn[:, columns + 1]
    return logits[chosen].float().log_softmax(-1).gather(-1, ids[:, columns + 1][chosen][:, None]).squeeze(-1)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        found = hidden.new_empty(len(states), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        expected = torch.empty_like(hidden) if wanted else None  # Σ p(v) W[v] of each state
        sums = hidden.new_empty(len(hidden), dtype=torch.float32)
        order = torch.argsort(states, stable=True)
        counts = torch.searchsorted(states[order].contiguous(), torch.arange(0, len(hidden) + 1, device=states.device))
        for part in _chunks(len(hidden), len(weight)):
            logits = (hidden[part] @ weight.T).float()
            here = order[counts[part.start] : counts[part.stop]]
            own = logits[states[here] - part.start, targets[here]]
            most = logits.amax(-1, keepdim=True)
            logits.sub_(most).exp_()
            total = logits.sum(-1, keepdim=True)
            sums[part] = (most + total.log()).squeeze(-1)
            found[here] = own - sums[states[here]]
            if expected is not None:
                torch.mm(logits.div_(total).to(weight.dtype), weight, out=expected[part])
        ctx.save_for_backward(hidden, weight, states, targets, sums, expected)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, states, targets, sums, expected = ctx.saved_tensors
        grad = grads[0]
        of_state = torch.zeros_like(sums).index_add_(0, states, grad)
        by_hidden = by_weight = None
        if expected is not None:
            by_hidden = (expected.float() * of_state[:, None]).neg_()
            by_hidden.index_add_(0, states, weight[targets].float() * grad[:, None])
            by_hidden = by_hidden.to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight)
            for part in _chunks(len(hidden), len(weight)):
                chances = (hidden[part] @ weight.T).float().sub_(sums[part, None]).exp_().mul_(of_state[part, None])
                by_weight.addmm_(chances.to(hidden.dtype).T, hidden[part], alpha=-1)
            by_weight.index_add_(0, targets, (hidden[states].float() * grad[:, None]).to(weight.dtype))
        return by_hidden, by_weight, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, states: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden Wᵀ) at the targets: hidden (K, W), weight (V, W), states and targets (N,) → (N,) float32.

    `states[n]` is the row of `hidden` that predicts `targets[n]`; several may share one. The gradient of a
    log-probability by its state is W[target] - Σ p(v) W[v], so the logits are dropped before the next chunk is made.
    """
    return _TokenLogprobs.apply(hidden, weight, states, targets)  # type: ignore[return-value]


def _chunks(states: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS // vocabulary)
    return [slice(start, min(start + size, states)) for start in range(0, states, size)]
