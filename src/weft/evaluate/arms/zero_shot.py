"""The example's own messages and nothing else: also what a tuned model is asked with."""

from __future__ import annotations

from weft.evaluate.arms import Arm


def zero_shot(name: str = "zero-shot") -> Arm:
    return Arm(name, lambda example: example.prompt)
