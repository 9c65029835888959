"""chrF: the F-score of shared character n-grams, for answers that may be worded differently.

Popović 2015, computed by sacrebleu with its defaults (n = 6, beta = 2), divided by 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Chrf:
    """`chrf`: sentence chrF between 0 and 1; equal texts give 1."""

    name = "chrf"
    metric = "chrf"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        return {self.metric: chrf(answer, expected)}


def chrf(answer: str, expected: str) -> float:
    """Sentence chrF of `answer` against one reference, 0 … 1."""
    answer, expected = answer.strip(), expected.strip()
    if answer == expected:  # also two empty texts, for which chrF is undefined
        return 1.0
    return min(1.0, _scorer().sentence_score(answer, [expected]).score / 100)


@cache
def _scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
