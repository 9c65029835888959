"""The answer is the right label and nothing else.

Strict on purpose: "Refund" and "refund." are not the label "refund", since the program that reads the answer would not
find it either. Macro-F1 needs all rows together and is made in `evaluate/score.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """`accuracy`: 1 when the stripped answer is the expected label, else 0."""

    name = "label"
    metric = "accuracy"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        return {self.metric: float(answer.strip() == expected.strip())}
