"""From rendered rows to log-probabilities of their learned tokens: the one forward pass that learning stands on.

A `Decoder` runs over the forest of the rows; any other causal model of transformers as `general.py` finds it can,
slower and equal. Logits exist only where something is learned. A `Decoder`'s come a chunk at a time and never wait for
the backward pass, except for the one chunk of an adapted head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint as recomputed

from weft.forest.attention import ForestAttention
from weft.forest.build import plant
from weft.forest.general import predicted
from weft.models.decoder import Decoder
from weft.models.token_rows import RowHead
from weft.records import Tokens

LOGITS = 16_000_000
"""Most logits held at once, as numbers."""
MANY_ROWS = 16
"""From one row in so many of a table on, rows that learn are put into a copy of it rather than beside its logits."""


class Learned(NamedTuple):
    """What one forward pass says of every learned token, row after row: N = sum of `learn` over the rows."""

    logprobs: Tensor
    """(N,) float32."""
    right: Tensor
    """(N,) bool: whether no other token was likelier. No gradient."""
    means: Tensor | None = None
    """(N,) float32, where asked for: mean log-probability of all tokens in that place, which label smoothing raises."""


def learned_logprobs(model: nn.Module, rows: Sequence[Tokens]) -> Tensor:
    """Log-probability of every learned token, row after row: (N,) float32 where N = sum of `learn` over the rows.

    The first token of a row cannot be learned (nothing precedes it) and must not be marked.
    """
    return learned_tokens(model, rows).logprobs


def learned_tokens(model: nn.Module, rows: Sequence[Tokens], means: bool = False) -> Learned:
    """As `learned_logprobs`, with whether each token was the likeliest and, with `means`, what smoothing needs."""
    if not any(any(row.learn) for row in rows):
        nothing = next(model.parameters()).new_zeros(0, dtype=torch.float32)
        return Learned(nothing, nothing.bool(), nothing if means else None)
    if isinstance(model, Decoder):
        return _over_forest(model, rows, means)
    return of_logits(*predicted(model, rows), means)


def _over_forest(model: Decoder, rows: Sequence[Tokens], means: bool) -> Learned:
    device = model.model.embed_tokens.weight.device
    forest = plant(rows)
    keep, sources = np.unique(forest.sources, return_inverse=True)
    ids, positions, kept, states, targets = (
        torch.from_numpy(array).to(device) for array in (forest.ids, forest.positions, keep, sources, forest.targets)
    )
    return of_states(
        model, model.states(ids, positions, ForestAttention(forest, keep, device), kept), states, targets, means
    )


def of_logits(logits: Tensor, states: Tensor, targets: Tensor, means: bool = False) -> Learned:
    """What logits (K, V) say of tokens: the row `states[n]` of them predicts `targets[n]`."""
    found, right, mean = _of_logits(nn.Identity(), logits, states, targets, means)
    return Learned(found, right, mean if means else None)


def of_states(model: Decoder, hidden: Tensor, states: Tensor, targets: Tensor, means: bool = False) -> Learned:
    """The same from the model's last states (K, W), without holding all logits at once."""
    head = model.lm_head
    if isinstance(head, RowHead) and len(head.tokens) * MANY_ROWS >= len(head.weight):
        weight = head.table
    elif isinstance(head, nn.Linear):
        weight = head.weight
    else:
        return _through_module(head, hidden, states, targets, means)
    found, log_sums, right = token_logprobs(hidden, weight, states, targets)
    if not means:
        return Learned(found, right)
    # The mean of logits is the logit of the mean row, so no second look at the vocabulary is needed.
    mean = (hidden.float() * weight.mean(0, dtype=torch.float32)).sum(-1)
    return Learned(found, right, (mean - log_sums)[states])


def _through_module(head: nn.Module, hidden: Tensor, states: Tensor, targets: Tensor, means: bool) -> Learned:
    """An adapted head: autograd knows its way; where the logits come in chunks, each is computed again on the way back.

    hidden (K, W); states and targets (N,), as in `token_logprobs`.
    """
    parts = _chunks(len(hidden), head.weight.shape[0])  # type: ignore[union-attr]
    order = torch.argsort(states, stable=True)
    counts = _counts(states[order], len(hidden))
    found = []
    for part in parts:
        here = order[counts[part.start] : counts[part.stop]]
        args = head, hidden[part], states[here] - part.start, targets[here], means
        found.append(_of_logits(*args) if len(parts) == 1 else recomputed(_of_logits, *args, use_reentrant=False))
    back = torch.argsort(order)
    logprobs, right, mean = (torch.cat(pieces)[back] for pieces in zip(*found, strict=True))
    return Learned(logprobs, right, mean if means else None)


def _of_logits(
    head: nn.Module, hidden: Tensor, states: Tensor, targets: Tensor, means: bool
) -> tuple[Tensor, Tensor, Tensor]:
    chances = head(hidden).float().log_softmax(-1)
    found = chances[states, targets]
    right = found.detach() == chances.detach().amax(-1)[states]
    return found, right, chances.mean(-1)[states] if means else found.new_zeros(len(found))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        found = hidden.new_empty(len(states), dtype=torch.float32)
        right = torch.empty(len(states), dtype=torch.bool, device=hidden.device)
        wanted, learned = ctx.needs_input_grad[:2]
        expected = torch.empty_like(hidden) if wanted else None  # Σ p(v) W[v] of each state
        parts = _chunks(len(hidden), len(weight))
        kept = None  # p(v), where W learns and one chunk holds all
        sums = hidden.new_empty(len(hidden), dtype=torch.float32)
        order = torch.argsort(states, stable=True)
        counts = _counts(states[order], len(hidden))
        for part in parts:
            logits = (hidden[part] @ weight.T).float()
            here = order[counts[part.start] : counts[part.stop]]
            own = logits[states[here] - part.start, targets[here]]
            most = logits.amax(-1, keepdim=True)
            logits.sub_(most).exp_()
            total = logits.sum(-1, keepdim=True)
            sums[part] = (most + total.log()).squeeze(-1)
            found[here] = own - sums[states[here]]
            right[here] = own == most[states[here] - part.start, 0]
            if expected is not None or learned:
                chances = logits.div_(total).to(weight.dtype)
                kept = chances if learned and len(parts) == 1 else None
                if expected is not None:
                    torch.mm(chances, weight, out=expected[part])
        ctx.save_for_backward(hidden, weight, states, targets, sums, expected, kept)
        ctx.mark_non_differentiable(right)
        ctx.set_materialize_grads(False)
        return found, sums, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, states, targets, sums, expected, kept = ctx.saved_tensors
        grad = torch.zeros(len(states), device=states.device) if grads[0] is None else grads[0]
        # What pulls at the logarithm of each state's sum: from its tokens' log-probabilities, and from the sum itself.
        of_state = torch.zeros_like(sums).index_add_(0, states, grad)
        if grads[1] is not None:
            of_state -= grads[1]
        by_hidden = by_weight = None
        if expected is not None:
            by_hidden = (expected.float() * of_state[:, None]).neg_()
            by_hidden.index_add_(0, states, weight[targets].float() * grad[:, None])
            by_hidden = by_hidden.to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight)
            pulled = (hidden.float() * of_state[:, None]).to(hidden.dtype)
            for part in _chunks(len(hidden), len(weight)):
                chances = kept
                if chances is None:
                    chances = (hidden[part] @ weight.T).float().sub_(sums[part, None]).exp_().to(hidden.dtype)
                by_weight.addmm_(chances.T, pulled[part], alpha=-1)
            by_weight.index_add_(0, targets, (hidden[states].float() * grad[:, None]).to(weight.dtype))
        return by_hidden, by_weight, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log softmax(hidden Wᵀ) at the targets: hidden (K, W), weight (V, W), states and targets (N,) → (N,) float32.

    `states[n]` is the row of `hidden` that predicts `targets[n]`; several may share one. The gradient of a
    log-probability by its state is W[target] - Σ p(v) W[v], so the logits are dropped before the next chunk is made.
    Also the logarithm of each state's sum of exponentials (K,), and (N,) whether no other token was likelier.
    """
    return _TokenLogprobs.apply(hidden, weight, states, targets)  # type: ignore[return-value]


def _counts(ordered: Tensor, states: int) -> list[int]:
    """(K + 1,) how many of the sorted places `ordered` (N,) lie before each state."""
    return torch.searchsorted(ordered.contiguous(), torch.arange(0, states + 1, device=ordered.device)).tolist()


def _chunks(states: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS // vocabulary)
    return [slice(start, min(start + size, states)) for start in range(0, states, size)]
