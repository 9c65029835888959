"""The form of answers that are one of a few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LabelShape:
    """One of `labels`, exactly."""

    labels: tuple[str, ...]
    form = "label"

    def matches(self, answer: str) -> bool:
        """Whether `answer` is one of the labels and nothing else."""
        return answer.strip() in self.labels

    def describe(self) -> str:
        """One sentence that a system prompt can use."""
        return f"Answer with exactly one of these labels and nothing else: {', '.join(self.labels)}."

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "labels": list(self.labels)}


def infer_labels(outputs: Sequence[str]) -> LabelShape:
    """All distinct outputs, sorted."""
    return LabelShape(tuple(sorted({output.strip() for output in outputs})))
