"""What a grader is: a name and a pure judgement of one answer against the ideal one.

A grader gives one or more scores per row, each 0 … 1, higher is better. Summaries are made in `evaluate/score.py`.
"""

from __future__ import annotations

from typing import Protocol


class Grader(Protocol):
    """One way to judge an answer."""

    @property
    def name(self) -> str:
        """What `--grader` calls it."""
        ...

    @property
    def metric(self) -> str:
        """The score that counts when this grader is the main one."""
        ...

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        """Scores by metric name, 0 … 1."""
        ...
