"""Exact causal attention along every root-to-leaf path of a forest, without repeating a shared beginning.

What a token sees falls into parts: its own node up to itself, and each ancestor as a whole. Nodes lie depth first, so
everything below an ancestor is one stretch of queries: one dense product per ancestor, one padded batch per group of
similar nodes. Parts are merged by the logarithm (base 2: the faster one) of their sums; the backward pass needs only
that and the output, and computes the weights again (Dao et al. 2022, arXiv:2205.14135, section 3.1). Works on any
device, in any number format; on a GPU `ForestAttention` leaves it to the fused kernel of `flex.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.forest import flex
from weft.forest.build import Forest, Node

PADDING = 1.3
"""A node joins a group while the group's padded size stays below this multiple of its tokens."""
CELLS = 4_000_000
"""Most scores per head of one product below an ancestor: bounds memory."""
LOWEST = -1e30
"""Added to the score of what must not be seen. Finite, for infinities are slow."""


class Own:
    """Nodes of similar length, each token seeing its node up to itself: n nodes, Lq queries and Lk keys at most."""

    def __init__(self, group: Sequence[_Asking], device: torch.device) -> None:
        width = max(len(local) for _, local, _ in group)
        height = max(node.length for node, _, _ in group)
        asking, local = np.zeros((len(group), width), np.int64), np.zeros((len(group), width), np.int64)
        seen = np.zeros((len(group), height), np.int64)
        padding = np.ones((len(group), width), bool)
        padded_keys = np.ones((len(group), height), bool)
        for i, (node, places, first) in enumerate(group):
            n = len(places)
            asking[i], asking[i, :n] = first, np.arange(first, first + n)
            seen[i], seen[i, : node.length] = node.start, np.arange(node.start, node.start + node.length)
            local[i, :n] = places
            padding[i, :n] = False
            padded_keys[i, : node.length] = False
        # A padded key lies behind every place of its node, so causality hides it.
        bias = np.where(np.arange(height) > local[:, :, None], np.float32(LOWEST), np.float32(0))
        self.device = device
        self.asking = torch.from_numpy(asking)
        self.seen = torch.from_numpy(seen)
        self.bias = torch.from_numpy(bias[:, None]).to(device)
        """(n, 1, Lq, Lk), to be added to scores."""
        self.padding = torch.from_numpy(padding) if padding.any() else None
        self.padded_keys = torch.from_numpy(padded_keys) if padded_keys.any() else None
        self._indices: dict[tuple[int, int], _Indices] = {}

    def indices(self, heads: int, kept: int) -> _Indices:
        """Where the folded queries and keys lie among rows of one head each; made once per shape."""
        if (heads, kept) not in self._indices:
            self._indices[heads, kept] = self._made(heads, kept)
        return self._indices[heads, kept]

    def _made(self, heads: int, kept: int) -> _Indices:
        n, width = self.asking.shape
        head = torch.arange(heads).view(1, kept, heads // kept, 1)
        queries = (self.asking.view(n, 1, 1, width) * heads + head).reshape(n, kept, -1)
        keys = self.seen[:, None] * kept + torch.arange(kept)[None, :, None]
        real_queries = real_keys = padding = None
        if self.padding is not None:
            padding = self.padding.view(n, 1, 1, width).expand(n, kept, heads // kept, width).reshape(n, kept, -1, 1)
            real_queries = (~padding).flatten().nonzero().squeeze(-1)
        if self.padded_keys is not None:
            real_keys = (~self.padded_keys)[:, None].expand(keys.shape).flatten().nonzero().squeeze(-1)

        def there(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(self.device)

        return _Indices(
            queries=queries.flatten().to(self.device),
            keys=keys.flatten().to(self.device),
            real_queries=there(real_queries),
            real_keys=there(real_keys),
            padding=there(padding),
            batch=(n, kept),
        )


class _Indices(NamedTuple):
    """Rows of one head each, flat: n · K · (H / K) · Lq queries, n · K · Lk keys; `real_…` None where all are real."""

    queries: Tensor
    keys: Tensor
    real_queries: Tensor | None
    real_keys: Tensor | None
    padding: Tensor | None
    """(n, K, H / K · Lq, 1) true for padded queries."""
    batch: tuple[int, int]


class Above(NamedTuple):
    """A stretch of queries that sees a stretch of keys as a whole: an ancestor and (some of) what is below it."""

    asking: slice
    seen: slice


@dataclass(frozen=True)
class Plan:
    """The parts for one set of queries."""

    own: tuple[Own, ...]
    above: tuple[Above, ...]


_Asking = tuple[Node, np.ndarray, int]
"""A node, the places within it that ask, and the place of the first of them among the queries."""


class ForestAttention:
    """`Attend` over a forest: all tokens ask in the inner layers, the rows of `keep` in the last one."""

    def __init__(self, forest: Forest, keep: np.ndarray, device: torch.device) -> None:
        self.forest, self.keep, self.device = forest, keep, device

    @cached_property
    def every(self) -> Plan:
        return plan(self.forest, np.arange(len(self.forest.ids)), self.device)

    @cached_property
    def kept(self) -> Plan:
        return plan(self.forest, self.keep, self.device)

    @cached_property
    def every_mask(self) -> flex.BlockMask:
        return flex.mask(self.forest, np.arange(len(self.forest.ids)), self.device)

    @cached_property
    def kept_mask(self) -> flex.BlockMask:
        return flex.mask(self.forest, self.keep, self.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kept: bool) -> Tensor:
        if flex.usable(q.device, q.shape[-1]):
            return flex.attend(q, k, v, self.kept_mask if kept else self.every_mask)
        return attend(q, k, v, self.kept if kept else self.every)


def plan(forest: Forest, asking: np.ndarray, device: torch.device) -> Plan:
    """The parts for the queries at the flat places `asking`, which must rise."""
    bounds = [np.searchsorted(asking, (node.start, node.start + node.length, node.end)) for node in forest.nodes]
    owns: list[_Asking] = []
    above: list[Above] = []
    for node, (first, last, end) in zip(forest.nodes, bounds, strict=True):
        if last > first:
            owns.append((node, asking[first:last] - node.start, int(first)))
        most = max(1, CELLS // node.length)
        for start in range(int(last), int(end), most):
            above.append(Above(slice(start, min(start + most, int(end))), slice(node.start, node.start + node.length)))
    return Plan(tuple(Own(group, device) for group in _grouped(owns)), tuple(above))


def _grouped(owns: Sequence[_Asking]) -> list[list[_Asking]]:
    """Nodes of similar size together: largest first, as long as padding stays small."""
    groups: list[list[_Asking]] = []
    width = height = cells = 0
    for own in sorted(owns, key=lambda own: (-len(own[1]) * own[0].length, own[0].start)):
        wide, high = len(own[1]), own[0].length
        together = max(width, wide) * max(height, high) * (len(groups[-1]) + 1) if groups else math.inf
        if together <= PADDING * (cells + wide * high):
            groups[-1].append(own)
            width, height, cells = max(width, wide), max(height, high), cells + wide * high
        else:
            groups.append([own])
            width, height, cells = wide, high, wide * high
    return groups


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Plan) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        heads, kept = q.shape[1], k.shape[1]
        scale = _scale(q)
        out = q.new_empty(q.shape, dtype=torch.float32)
        total = q.new_empty((*q.shape[:2], 1), dtype=torch.float32)
        for own in parts.own:
            at = own.indices(heads, kept)
            scores = _scores(_taken(q, at.queries, at), _taken(k, at.keys, at), scale, own.bias)
            part, logsum = _weighed(scores, _taken(v, at.keys, at))
            _put(out, at.queries, at.real_queries, part)
            _put(total, at.queries, at.real_queries, logsum)
        for above in parts.above:
            keys, values = (x[above.seen].transpose(0, 1)[None] for x in (k, v))
            part, logsum = _weighed(_scores(_folded(q[above.asking], kept), keys, scale, None), values)
            _merge(out[above.asking], total[above.asking], _unfolded(part, heads), _unfolded(logsum, heads))
        result = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, result, total)
        ctx.parts = parts
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, total = ctx.saved_tensors
        heads, kept = q.shape[1], k.shape[1]
        scale = _scale(q)
        grad = grads[0].contiguous()
        along = (grad.float() * out).sum(-1, keepdim=True)  # (Q, H, 1)
        by_q = torch.empty_like(q)
        by_k, by_v = torch.zeros_like(k), torch.zeros_like(v)
        for own in ctx.parts.own:
            at = own.indices(heads, kept)
            asked = _Asked(*(_taken(x, at.queries, at) for x in (q, grad, along, total)))
            if at.padding is not None:
                asked.total.masked_fill_(at.padding, -LOWEST)  # so its weights are zero
            dq, dk, dv = _gradients(asked, _taken(k, at.keys, at), _taken(v, at.keys, at), scale, own.bias)
            _put(by_q, at.queries, at.real_queries, dq)
            _put(by_k, at.keys, at.real_keys, dk)
            _put(by_v, at.keys, at.real_keys, dv)
        for above in ctx.parts.above:
            asked = _Asked(*(_folded(x[above.asking], kept) for x in (q, grad, along, total)))
            keys, values = (x[above.seen].transpose(0, 1)[None] for x in (k, v))
            dq, dk, dv = _gradients(asked, keys, values, scale, None)
            by_q[above.asking] += _unfolded(dq, heads)
            by_k[above.seen] += dk[0].transpose(0, 1)
            by_v[above.seen] += dv[0].transpose(0, 1)
        by_score = q.shape[-1] ** -0.5
        return by_q.mul_(by_score), by_k.mul_(by_score), by_v, None


def attend(q: Tensor, k: Tensor, v: Tensor, parts: Plan) -> Tensor:
    """Attention of the plan's queries: q (Q, H, D); k, v (T, K, D) with K dividing H → (Q, H, D)."""
    return _Attention.apply(q, k, v, parts)  # type: ignore[return-value]


def dense_mask(forest: Forest) -> np.ndarray:
    """(T, T) true where the row's token sees the column's: the definition that the parts must equal."""
    size = len(forest.ids)
    seen = np.zeros((size, size), dtype=bool)
    for node in forest.nodes:
        stop = node.start + node.length
        seen[stop : node.end, node.start : stop] = True
        seen[node.start : stop, node.start : stop] = np.tri(node.length, dtype=bool)
    return seen


def _scale(q: Tensor) -> float:
    """What turns products into exponents of two."""
    return q.shape[-1] ** -0.5 * math.log2(math.e)


def _taken(x: Tensor, index: Tensor, at: _Indices) -> Tensor:
    """Rows of one head each from x (T, heads, D) → (n, K, rows, D)."""
    return x.view(-1, x.shape[-1]).index_select(0, index).view(*at.batch, -1, x.shape[-1])


def _put(target: Tensor, index: Tensor, real: Tensor | None, rows: Tensor) -> None:
    """The reverse of `_taken`, padding left out; every row of the target is written once."""
    rows = rows.view(-1, rows.shape[-1])
    if real is not None:
        index, rows = index[real], rows.index_select(0, real)
    target.view(-1, target.shape[-1]).index_copy_(0, index, rows)


def _folded(x: Tensor, kept: int) -> Tensor:
    """(L, H, D) → (1, K, H/K · L, D): the query heads of one key head end to end."""
    length, heads, width = x.shape
    return x.view(length, kept, heads // kept, width).permute(1, 2, 0, 3).reshape(1, kept, -1, width)


def _unfolded(x: Tensor, heads: int) -> Tensor:
    """(1, K, H/K · L, D) → (L, H, D)."""
    kept, width = x.shape[1], x.shape[3]
    return x.view(kept, heads // kept, -1, width).permute(2, 0, 1, 3).reshape(-1, heads, width)


def _scores(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """(n, K, gL, D), (n, K, S, D) → exponents of two (n, K, gL, S) float32, plus the bias (n, 1, L, S)."""
    scores = torch.matmul(queries, keys.transpose(2, 3)).float()
    if bias is None:
        return scores.mul_(scale)
    n, kept, rows, seen = scores.shape
    by_head = scores.view(n, -1, bias.shape[2], seen)
    return torch.add(bias, by_head, alpha=scale, out=by_head).view(n, kept, rows, seen)


def _weighed(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax times values, and the logarithm of its sum: (n, K, gL, D), (n, K, gL, 1). Overwrites the scores."""
    most = scores.amax(-1, keepdim=True)
    weights = scores.sub_(most).exp2_()
    sums = weights.sum(-1, keepdim=True)
    part = torch.matmul(weights.to(values.dtype), values).float().div_(sums)
    return part, sums.log2_().add_(most)


def _merge(out: Tensor, total: Tensor, part: Tensor, logsum: Tensor) -> None:
    """Fold a part into what was seen so far, in place: out and part (Q, H, D), total and logsum (Q, H, 1)."""
    both = torch.logaddexp2(total, logsum)
    out.mul_((total - both).exp2_()).addcmul_(part, (logsum - both).exp2_())
    total.copy_(both)


class _Asked(NamedTuple):
    """What the backward pass knows about each query, folded: (n, K, rows, D) and (n, K, rows, 1)."""

    q: Tensor
    grad: Tensor
    along: Tensor
    """Gradient times output, summed."""
    total: Tensor


def _gradients(
    asked: _Asked, keys: Tensor, values: Tensor, scale: float, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one part by its queries and keys, before the scale of scores, and by its values; all folded."""
    weights = _scores(asked.q, keys, scale, bias).sub_(asked.total).exp2_()
    by_weights = torch.matmul(asked.grad, values.transpose(2, 3)).float()
    by_scores = by_weights.sub_(asked.along).mul_(weights).to(keys.dtype)
    by_values = torch.matmul(weights.to(keys.dtype).transpose(2, 3), asked.grad)
    return torch.matmul(by_scores, keys), torch.matmul(by_scores.transpose(2, 3), asked.q), by_values
