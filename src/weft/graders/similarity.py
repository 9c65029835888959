"""How much of the wording is the same, in order: 2·M / T over words.

M is the number of words in the matching blocks of Ratcliff and Obershelp (difflib of the standard library), T the
number of words in both texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class Similarity:
    """`similarity`: share of words that both texts have in the same order, 0 … 1."""

    name = "similarity"
    metric = "similarity"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        return {self.metric: SequenceMatcher(None, answer.split(), expected.split(), autojunk=False).ratio()}
