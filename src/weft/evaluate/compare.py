"""Statistics of one arm and of two arms on the same rows: pure functions of numbers.

Shares are compared by McNemar's exact test, scores by a permutation test; every p-value comes with an interval of the
difference. No model, no file, no arm's name has a meaning here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from weft.records import Interval, Scorecard
from weft.tasks import Task

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""
RESAMPLES = 2000
PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between two arms on the same rows: first minus second, with its 95 % interval."""

    arms: tuple[str, str]
    metric: str
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of this comparison alone."""
    n: int
    """Rows that both arms answered."""
    test: str
    p_adjusted: float | None = None
    """After Holm's correction, when this is one of several comparisons."""

    @property
    def corrected_p(self) -> float:
        """The p-value to judge by: adjusted where there was something to adjust for."""
        return self.p if self.p_adjusted is None else self.p_adjusted

    def reversed(self) -> Comparison:
        """The same comparison, second minus first."""
        return replace(self, arms=self.arms[::-1], difference=-self.difference, low=-self.high, high=-self.low)

    def to_json(self) -> dict[str, Any]:
        return {
            "arms": list(self.arms),
            "metric": self.metric,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "n": self.n,
            "test": self.test,
            **({} if self.p_adjusted is None else {"p_adjusted": self.p_adjusted}),
        }


def compare(a: Scorecard, b: Scorecard, task: Task, *, metric: str | None = None, seed: int = 0) -> Comparison:
    """Arm `a` minus arm `b` by the task's main metric, or by `metric`, row by row.

    Raises ValueError when the cards are not of the same rows or a row lacks the metric.
    """
    metric = metric or task.metric
    if (a.split, [g.expected for g in a.grades]) != (b.split, [g.expected for g in b.grades]):
        raise ValueError(f"arms {a.arm!r} and {b.arm!r} were not graded on the same rows: nothing can be paired")
    lacking = [card.arm for card in (a, b) if any(metric not in grade.scores for grade in card.grades)]
    if lacking or not a.grades:
        raise ValueError(f"metric {metric!r} is missing in rows of {', '.join(lacking) or 'both arms (no rows)'}")
    first = np.array([grade.scores[metric] for grade in a.grades])
    second = np.array([grade.scores[metric] for grade in b.grades])
    if np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all():
        return compare_shares(first > 0.5, second > 0.5, arms=(a.arm, b.arm), metric=metric)
    return paired_bootstrap(first, second, seed, arms=(a.arm, b.arm), metric=metric)


def compare_all(cards: Sequence[Scorecard], task: Task, *, metric: str | None = None) -> tuple[Comparison, ...]:
    """Every pair of arms, with p-values corrected for their number."""
    return holm_corrected([compare(a, b, task, metric=metric) for a, b in combinations(cards, 2)])


def wilson(k: int, n: int) -> Interval:
    """The share k / n with Wilson's score interval (Wilson 1927), 95 %. Raises ValueError unless 0 ≤ k ≤ n, n > 0."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is no share: expected 0 <= k <= n and n > 0")
    share = k / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def mcnemar(a: Sequence[bool] | np.ndarray, b: Sequence[bool] | np.ndarray) -> float:
    """Two-sided exact p-value that a and b are right equally often (McNemar 1947; binomial on the discordant rows)."""
    from scipy.stats import binomtest

    only_a, only_b = _discordant(np.asarray(a, dtype=bool), np.asarray(b, dtype=bool))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare_shares(
    a: Sequence[bool] | np.ndarray,
    b: Sequence[bool] | np.ndarray,
    *,
    arms: tuple[str, str] = ("a", "b"),
    metric: str = "accuracy",
) -> Comparison:
    """Difference of two paired shares: exact McNemar p, Newcombe's interval (1998, method 10)."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    low, high = newcombe(a, b)
    difference = float(a.mean() - b.mean())
    return Comparison(arms, metric, difference, low, high, mcnemar(a, b), len(a), "McNemar exact")


def newcombe(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of paired shares, mean(a) - mean(b), from two Wilson intervals.

    Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: square-and-add with the correlation of the two
    answers, continuity-corrected where it is positive.
    """
    n = len(a)
    only_a, only_b = _discordant(a, b)
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    first, second = wilson(both + only_a, n), wilson(both + only_b, n)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    association = both * neither - only_a * only_b
    if association > 0:
        association = max(association - n / 2, 0)
    phi = association / math.sqrt(margins) if margins else 0.0
    below = _square_and_add(first.value - first.low, second.high - second.value, phi)
    above = _square_and_add(first.high - first.value, second.value - second.low, phi)
    difference = first.value - second.value
    return max(-1.0, difference - below), min(1.0, difference + above)


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    seed: int = 0,
    *,
    arms: tuple[str, str] = ("a", "b"),
    metric: str = "score",
) -> Comparison:
    """Difference of two paired mean scores: percentile bootstrap over rows, p by random sign flips.

    The p-value is that of the paired permutation test with 9,999 permutations and the observed one.
    """
    gaps = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n, difference = len(gaps), float(gaps.mean())
    rng = np.random.default_rng(seed)
    means = np.concatenate([gaps[rng.integers(0, n, size=(200, n))].mean(axis=1) for _ in range(RESAMPLES // 200)])
    low, high = np.quantile(means, (0.025, 0.975))
    low, high = min(difference, float(low)), max(difference, float(high))
    return Comparison(arms, metric, difference, low, high, _sign_flip_p(gaps, rng), n, "paired permutation")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def holm_corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with `p_adjusted` set by Holm's correction over all of them."""
    adjusted = holm([comparison.p for comparison in comparisons])
    return tuple(replace(c, p_adjusted=p) for c, p in zip(comparisons, adjusted, strict=True))


def _discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Rows where only a is right, and where only b is."""
    return int((a & ~b).sum()), int((~a & b).sum())


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _sign_flip_p(gaps: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of mean(gaps) when each gap may have either sign."""
    moved = gaps[gaps != 0]
    if not len(moved):
        return 1.0
    observed, extreme, left = abs(moved.sum()), 0, PERMUTATIONS
    while left:
        size = min(left, 1000)
        signs = rng.integers(0, 2, size=(size, len(moved)), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ moved) >= observed * (1 - 1e-12)).sum())
        left -= size
    return (extreme + 1) / (PERMUTATIONS + 1)
