"""Measure one arm on rows: ask, grade, summarise. Every arm answers the very same rows, none is dropped.

A row whose prompt does not fit the base's context counts as a wrong, empty answer and is named in the details.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from weft.evaluate.arms import Arm
from weft.evaluate.score import summarise
from weft.generate.engine import Request, answer
from weft.generate.sampling_config import Sampling
from weft.models import precision
from weft.models.chat import Chat
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Conversation, Grade, Scorecard, SplitName
from weft.tasks import Task

if TYPE_CHECKING:
    from weft.generate.constrain import Constraint

ROOM_FACTOR, HELD_FACTOR = 1.1, 2.0
"""Answers may be this much longer than the longest training answer before they are cut; those that are held to a form
need more, since their form ends them and a cut breaks it."""


@dataclass(frozen=True)
class Asking:
    """How all arms are asked, and by what their answers are judged."""

    task: Task
    limit: int
    """Most tokens of an answer."""
    constraint: Constraint | None = None
    """What an answer is held to."""


def answer_limit(chat: Chat, train: Sequence[Conversation], context: int, factor: float = ROOM_FACTOR) -> int:
    """Most tokens that an answer gets: from the training answers' lengths, at most half of the context."""
    longest = max(sum(chat.example(example.messages).learn) for example in train)
    return min(math.ceil(longest * factor) + 4, context // 2)


def measure(
    base: Base,
    arm: Arm,
    rows: Sequence[Conversation],
    asking: Asking,
    split: SplitName,
    progress: Progress,
) -> Scorecard:
    """The arm's scorecard on `rows`. Also scores the expected answers (`log_loss`: mean nats per token).

    Where answers are held to a form, `format_unaided` counts those in the right form to which the model came by
    itself, so that nothing had to be forbidden to it.
    """
    started = time.monotonic()
    task, limit = asking.task, asking.limit
    progress.start(f"{arm.name} on {split}", len(rows), "rows")
    requests: dict[int, Request] = {}
    for number, row in enumerate(rows):
        messages = arm.messages(row)
        prompt = base.chat.prompt(messages)
        whole = base.chat.example((*messages, row.messages[-1]))
        if len(prompt) + limit <= base.context and len(whole.ids) <= base.context:
            requests[number] = Request(tuple(prompt), whole.ids[len(prompt) :], asking.constraint)
    with precision.frozen_as(base.model, precision.for_answering(base)):
        results = answer(base, list(requests.values()), Sampling(max_tokens=limit), progress.advance)
    seconds = time.monotonic() - started
    by_row = dict(zip(requests, results, strict=True))

    grades: list[Grade] = []
    tokens = 0
    for number, row in enumerate(rows):
        result = by_row.get(number)
        text = base.chat.decode(result.ids) if result else ""
        grade = task.grade(text, row.answer)
        if asking.constraint is not None:
            kept = grade.scores["format_consistency"] if result and result.unaided else 0.0
            grade = replace(grade, scores={**grade.scores, "format_unaided": kept})
        if result and result.log_loss is not None:
            grade = replace(grade, scores={**grade.scores, "log_loss": result.log_loss})
        if result:
            tokens += len(requests[number].prompt) + len(result.ids) + (result.finish_reason == "stop")
        grades.append(grade)
    details: dict[str, Any] = {**arm.details, "answer_limit": limit}
    if len(requests) < len(rows):
        details["too_long"] = [row.line for number, row in enumerate(rows) if number not in requests]
    if cut := sum(result.finish_reason == "length" for result in results):
        details["cut_at_limit"] = cut
    card = Scorecard(
        arm=arm.name,
        split=split,
        grades=tuple(grades),
        metrics=summarise(task, grades),
        tokens_per_request=tokens / len(rows),
        seconds_per_request=seconds / len(rows),
        details=details,
    )
    candidate = f"  [{details['candidate']}]" if split != "test" and "candidate" in details else ""
    progress.finish(_headline(card, task) + candidate)
    return card


def measure_predictor(
    name: str,
    predict: Callable[[Sequence[str]], Sequence[str]],
    rows: Sequence[Conversation],
    task: Task,
    split: SplitName,
    details: dict[str, Any],
    progress: Progress,
) -> Scorecard:
    """The scorecard of something that maps questions to answers without a language model: zero tokens."""
    started = time.monotonic()
    progress.start(f"{name} on {split}", len(rows), "rows")
    answers = predict([row.question for row in rows])
    seconds = time.monotonic() - started
    grades = [task.grade(str(text), row.answer) for text, row in zip(answers, rows, strict=True)]
    progress.advance(len(rows))
    card = Scorecard(name, split, tuple(grades), summarise(task, grades), 0.0, seconds / len(rows), details)
    progress.finish(_headline(card, task))
    return card


def best_on_validation(
    base: Base,
    candidates: Sequence[Arm],
    rows: Sequence[Conversation],
    asking: Asking,
    progress: Progress,
) -> Arm:
    """The candidate with the best main metric on `rows` (then the lower log-loss); all figures in its details."""
    cards = [(arm, measure(base, arm, rows, asking, "validation", progress)) for arm in candidates]
    metric = asking.task.metric

    def rank(pair: tuple[Arm, Scorecard]) -> tuple[float, float]:
        metrics = pair[1].metrics
        loss = metrics["log_loss"].value if "log_loss" in metrics else math.inf
        return -metrics[metric].value, loss

    chosen, _ = min(cards, key=rank)
    tried = [
        {
            "candidate": arm.details.get("candidate", arm.name),
            "rows": len(rows),
            **{name: round(card.metrics[name].value, 4) for name in (metric, "log_loss") if name in card.metrics},
        }
        for arm, card in cards
    ]
    return replace(chosen, details={**chosen.details, "tried": tried})


def _headline(card: Scorecard, task: Task) -> str:
    main = card.metrics[task.metric]
    return f"{task.metric} {main.value:.3f} ({main.low:.3f}-{main.high:.3f})"
