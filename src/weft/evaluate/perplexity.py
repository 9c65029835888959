"""Perplexity before and after on the same documents: pure functions of log-probabilities.

Perplexity is e to the mean negative log-probability of a token. What is drawn again for the intervals are whole
documents (their tokens depend on each other), the same ones for both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.evaluate.compare import RESAMPLES, paired_bootstrap
from weft.records import Interval


@dataclass(frozen=True, slots=True)
class PerplexityChange:
    """What a training did to the perplexity of some documents, with 95 % intervals."""

    documents: int
    tokens: int
    before: Interval
    after: Interval
    ratio: Interval
    """After over before: below 1 the model now expects the documents more."""
    p: float
    """Two-sided, that the documents' log-probabilities are as likely to rise as to fall (paired permutation)."""

    def to_json(self) -> dict[str, Any]:
        intervals = {name: getattr(self, name).to_json() for name in ("before", "after", "ratio")}
        return {"documents": self.documents, "tokens": self.tokens, **intervals, "p": self.p}


def perplexity(nats: float, tokens: int) -> float:
    """From the negative log-probability of `tokens` tokens together."""
    return float(np.exp(nats / tokens))


def perplexity_change(
    before: Sequence[float] | np.ndarray,
    after: Sequence[float] | np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    seed: int = 0,
) -> PerplexityChange:
    """From the negative log-probability of each document (D,), in nats, by both models, and its number of tokens."""
    nats = np.stack([np.asarray(before, dtype=float), np.asarray(after, dtype=float)])  # (2, D)
    counts = np.asarray(tokens, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES // 100):
        rows = rng.integers(0, len(counts), size=(100, len(counts)))
        drawn.append(nats[:, rows].sum(-1) / counts[rows].sum(-1))
    means = np.concatenate(drawn, axis=1)  # (2, RESAMPLES)
    whole = nats.sum(-1) / counts.sum()
    return PerplexityChange(
        documents=len(counts),
        tokens=int(counts.sum()),
        before=_interval(whole[0], means[0]),
        after=_interval(whole[1], means[1]),
        ratio=_interval(whole[1] - whole[0], means[1] - means[0]),
        p=paired_bootstrap(nats[1], nats[0], seed).p,
    )


def _interval(value: float, drawn: np.ndarray) -> Interval:
    """e to a mean, and to its percentiles."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(*(float(np.exp(x)) for x in (value, min(value, low), max(value, high))))
