"""The answer is the expected text, character for character, apart from white space around it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """1 when both texts are equal after stripping, else 0 (`string_check` with `eq` in the fine-tuning API)."""

    name = "exact_match"
    metric = "exact_match"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        return {self.metric: float(answer.strip() == expected.strip())}
