"""From logits to tokens, each row in its own way: temperature, nucleus, biases, penalties, a mask, log-probabilities.

The words mean what they mean in OpenAI's API: penalties count the tokens of the reply, not of the prompt; biases are
added before drawing; log-probabilities are those of the model's own distribution, before anything was changed. A draw
depends on the row's seed, its place in the reply and its distribution alone, so batch mates change nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.generate.requests import Draw

NUCLEUS = 512
"""So many most probable tokens are looked at first; the whole vocabulary is sorted only where they do not suffice."""


@dataclass(slots=True)
class Drawing:
    """One row: how it draws, and what it has drawn."""

    draw: Draw
    seed: int
    drawn: list[int] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)

    def took(self, token: int) -> None:
        self.drawn.append(token)
        self.counts[token] += 1

    @property
    def plain(self) -> bool:
        """Whether the logits are used as they are."""
        draw = self.draw
        return not (draw.logit_bias or (self.drawn and (draw.frequency_penalty or draw.presence_penalty)))


@dataclass(frozen=True, slots=True)
class Picked:
    """One token; `logprob` None unless it was asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def pick(logits: Tensor, rows: Sequence[Drawing], allowed: Sequence[Tensor | None] = ()) -> list[Picked | None]:
    """The next token of each row: logits (n, V) float32, `allowed` (V,) bool or None per row. None: no finite number.

    The logits may be overwritten.
    """
    raw = {i: logits[i].log_softmax(-1) for i, row in enumerate(rows) if row.draw.top_logprobs is not None}
    for i, row in enumerate(rows):
        if not row.plain:
            _adjust(logits[i], row)
        if allowed and (mask := allowed[i]) is not None:
            logits[i].masked_fill_(~mask, -math.inf)
    values, tokens = (x.tolist() for x in logits.max(-1))
    drawing = [i for i, row in enumerate(rows) if row.draw.temperature > 0 and math.isfinite(values[i])]
    if drawing:
        drawn = _drawn(logits if len(drawing) == len(rows) else logits[drawing], [rows[i] for i in drawing])
        for i, token in zip(drawing, drawn, strict=True):
            tokens[i] = token
    return [
        _told(tokens[i], raw.get(i), row.draw.top_logprobs or 0) if math.isfinite(values[i]) else None
        for i, row in enumerate(rows)
    ]


def score(logits: Tensor, tokens: Sequence[int], count: int) -> list[Picked]:
    """Tokens that stand already, as drawn ones are told: logits (n, V) float32 of their n places."""
    logprobs = logits.log_softmax(-1)
    places = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    own = logprobs.gather(-1, places[:, None]).squeeze(-1).tolist()
    values, best = (x.tolist() for x in logprobs.topk(min(count, logits.shape[-1])))
    tops = (tuple(zip(*each, strict=True)) for each in zip(best, values, strict=True))
    return [Picked(*each) for each in zip(tokens, own, tops, strict=True)]


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1) that depends on `seed` and `place` alone, on every machine."""
    digest = hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    # 52 bits: so times any total stays below that total.
    return (int.from_bytes(digest, "big") >> 12) * 2.0**-52


def _adjust(logits: Tensor, row: Drawing) -> None:
    """Add biases and take penalties, in place: (V,)."""
    change: dict[int, float] = {}
    for token, bias in row.draw.logit_bias:
        change[token] = change.get(token, 0.0) + bias
    for token, count in row.counts.items():
        penalty = count * row.draw.frequency_penalty + row.draw.presence_penalty
        change[token] = change.get(token, 0.0) - penalty
    places = torch.tensor(list(change), device=logits.device)
    logits.index_add_(0, places, torch.tensor(list(change.values()), dtype=logits.dtype, device=logits.device))


def _drawn(logits: Tensor, rows: Sequence[Drawing]) -> list[int]:
    """One token of each row by inverting its cumulative distribution: (m, V)."""
    temperatures = torch.tensor([[row.draw.temperature] for row in rows], device=logits.device)
    # The greatest logit is taken away first: a small temperature must not make infinities.
    probabilities = (logits - logits.amax(-1, keepdim=True)).div_(temperatures).softmax(-1)
    for i, row in enumerate(rows):
        if row.draw.top_p < 1:
            _cut(probabilities[i], row.draw.top_p)
    sums = probabilities.double().cumsum(-1)
    points = [[uniform(row.seed, len(row.drawn))] for row in rows]
    wanted = torch.tensor(points, dtype=sums.dtype, device=sums.device) * sums[:, -1:]
    # `right`: the first place whose sum exceeds the point, so a token without probability is never met.
    return torch.searchsorted(sums, wanted, right=True).squeeze(-1).tolist()


def _cut(probabilities: Tensor, top_p: float) -> None:
    """Zero all but the most probable tokens that together reach `top_p`, in place: (V,)."""
    size = len(probabilities)
    for count in (min(NUCLEUS, size), size):
        best, places = probabilities.topk(count)
        before = best.cumsum(-1) - best
        # A token stays while the mass before it is still short of top_p, so the first always stays.
        kept = before < top_p
        if count == size or not bool(kept[-1]):
            break
    chosen = best[kept]
    probabilities.zero_().index_copy_(0, places[kept], chosen)


def _told(token: int, logprobs: Tensor | None, count: int) -> Picked:
    if logprobs is None:
        return Picked(token)
    values, places = (x.tolist() for x in logprobs.topk(min(count, len(logprobs))))
    return Picked(token, float(logprobs[token]), tuple(zip(places, values, strict=True)))
