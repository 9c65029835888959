"""The record of a finished training: what was learned, how long it took, and why it ended there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Trained:
    """The record of a finished training; `curve` holds (step, loss) pairs."""

    method: str
    """`lora` or `full`: what was trained."""
    trainable_parameters: int
    total_parameters: int
    steps: int
    published_step: int
    """Whose parameters are published: the best step, or with `--publish last` the last one."""
    best_step: int | None
    """Where validation was best; None where nothing was looked at."""
    best_loss: float | None
    """The validation loss there: nats per learned token (sft), or the mean loss of a pair (dpo)."""
    best_measures: dict[str, float]
    """What else the method measured at that look."""
    chosen_by: str
    """What best means, and what may stop it early: the validation `loss`, or the name of a grader's score."""
    stopped_because: str
    seconds: float
    tokens: int
    skipped_lines: tuple[int, ...]
    """Lines of what was too long to train on."""
    skipped_validation_lines: tuple[int, ...]
    """Lines of what was too long to be looked at."""
    not_exact: tuple[str, ...]
    """Why the bytes are not those of an undisturbed training: each resume under other threads, devices or numbers."""
    result: str
    curve: dict[str, list[tuple[int, float]]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
