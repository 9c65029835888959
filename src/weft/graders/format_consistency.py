"""The answer has the form that the training answers have, whatever it says."""

from __future__ import annotations

from dataclasses import dataclass

from weft.graders.shape import Shape


@dataclass(frozen=True, slots=True)
class FormatConsistency:
    """`format_consistency`: 1 when the answer satisfies the shape, else 0; the expected answer is not looked at."""

    shape: Shape
    name = "format_consistency"
    metric = "format_consistency"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        return {self.metric: float(self.shape.matches(answer))}
