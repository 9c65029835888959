"""Every arm on the same sealed rows. Choices (prompt, shots, passages) are made on validation first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from weft.errors import DamageError
from weft.evaluate.arms import Arm, classical, few_shot, prompted, rag
from weft.evaluate.arms.zero_shot import zero_shot
from weft.evaluate.run import (
    HELD_FACTOR,
    ROOM_FACTOR,
    Asking,
    answer_limit,
    best_on_validation,
    measure,
    measure_predictor,
)
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Grade, Interval, Scorecard
from weft.road.prepare import Prepared
from weft.road.structured import Form
from weft.runs import Run

RETRIEVAL_CHOICE_ROWS = 12
"""Validation rows for arms with long prompts: each candidate costs a prompt of the whole context per row."""


def measure_arms(
    run: Run,
    base: Base,
    prepared: Prepared,
    passages: list[str] | None,
    choice_rows: int,
    form: Form | None,
    progress: Progress,
) -> dict[str, Scorecard]:
    """Scorecards on test of every arm that needs no training; those already in the run are read back."""
    road = _Road(run, base, prepared, choice_rows, form, progress)
    cards = {"zero-shot": road.card("zero-shot", zero_shot)}
    if prepared.task.kind == "classification":
        cards["classical"] = road.classical_card()
    cards["prompted"] = road.card("prompted", road.best_prompt)
    cards["few-shot"] = road.card("few-shot", road.best_shots)
    if passages:
        cards["rag"] = road.card("rag", lambda: road.best_passages(passages))
    return cards


def measure_tuned(run: Run, tuned: Base, prepared: Prepared, form: Form | None, progress: Progress) -> Scorecard:
    """The scorecard on test of the fine-tuned model, asked with nothing but the example's own messages."""
    return _Road(run, tuned, prepared, 0, form, progress).card("tuned", lambda: zero_shot("tuned"))


class _Road:
    """What the arms of one run share."""

    def __init__(
        self, run: Run, base: Base, prepared: Prepared, choice_rows: int, form: Form | None, progress: Progress
    ) -> None:
        self.run, self.base, self.prepared, self.progress = run, base, prepared, progress
        self.train, self.test, self.task = prepared.split.train, prepared.split.test, prepared.task
        limit = answer_limit(base.chat, self.train, base.context, HELD_FACTOR if form else ROOM_FACTOR)
        self.ask = Asking(self.task, limit, form.constraint if form else None)
        self.choice = prepared.split.validation[:choice_rows]
        self._instruction: str | None = None

    @property
    def room(self) -> int:
        return self.base.context - self.ask.limit

    def card(self, name: str, make: Any) -> Scorecard:
        """The arm's card from the run's folder, or measured now: one look at the sealed test."""
        known = read_card(self.run, name)
        if known is not None:
            return known
        arm: Arm = make()
        card = measure(self.base, arm, self.test, self.ask, "test", self.progress)
        keep_card(self.run, card)
        return card

    def classical_card(self) -> Scorecard:
        known = read_card(self.run, "classical")
        if known is not None:
            return known
        model, details = classical.fit(self.train, self.prepared.split.validation)
        card = measure_predictor("classical", model.predict, self.test, self.task, "test", details, self.progress)
        keep_card(self.run, card)
        return card

    def best_prompt(self) -> Arm:
        arms = prompted.candidates(self.base.chat, self.task, self.train)
        return best_on_validation(self.base, arms, self.choice, self.ask, self.progress)

    def instruction(self) -> str | None:
        """The system prompt that did best on validation."""
        return self.card("prompted", self.best_prompt).details.get("system_prompt")

    def best_shots(self) -> Arm:
        arms = few_shot.candidates(self.base.chat, self.train, self.room, self.instruction())
        return self._best_with_long_prompts(arms)

    def best_passages(self, passages: list[str]) -> Arm:
        return self._best_with_long_prompts(rag.candidates(self.base.chat, passages, self.room, self.instruction()))

    def _best_with_long_prompts(self, arms: list[Arm]) -> Arm:
        rows = self.choice[:RETRIEVAL_CHOICE_ROWS]
        return best_on_validation(self.base, arms, rows, self.ask, self.progress)


def keep_card(run: Run, card: Scorecard) -> None:
    """Count the look at the sealed rows, then write the card: whatever stops us between, the look was taken."""
    run.event("looked", arm=card.arm, split=card.split, rows=len(card.grades))
    run.write_json(f"scorecards/{card.arm}.{card.split}.json", asdict(card))


def read_card(run: Run, arm: str, split: str = "test") -> Scorecard | None:
    """A card of the run, or None where it has not been measured. Raises DamageError where it cannot be understood."""
    name = f"scorecards/{arm}.{split}.json"
    if not run.has(name):
        return None
    value = run.read_json(name)
    try:
        value["grades"] = tuple(Grade(**grade) for grade in value["grades"])
        value["metrics"] = {key: Interval(**interval) for key, interval in value["metrics"].items()}
        return Scorecard(**value)
    except (KeyError, TypeError) as error:
        raise DamageError(f"{run.path(name)}: not a scorecard ({error}). Remove it; it is measured again.") from None


def looks(run: Run) -> int:
    """How often the sealed test has been looked at: one per arm, also where an interruption made it answer twice."""
    path = run.path("events.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return len(
        {line.split('"arm": ')[1] for line in lines if '"event": "looked"' in line and '"split": "test"' in line}
    )
