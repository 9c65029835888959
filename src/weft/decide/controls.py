"""What an arm must beat before it may claim anything: answers that ignore the question.

`always the same answer` gives every row the training answer that is right most often. For free text, where no single
answer is a fair opponent, `answers of other rows` judges an arm's own answers against the wrong rows: an arm that does
no better on its own rows has not read the question.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.evaluate.compare import Comparison, compare
from weft.evaluate.score import mean_interval
from weft.records import Grade, Scorecard
from weft.tasks import Task

CONSTANT = "always the same answer"
SWAPPED = "answers of other rows"
_SHIFTS = 3


def against_controls(task: Task, card: Scorecard, *, arms: int) -> tuple[Comparison, Scorecard]:
    """The arm minus the control that it beats least clearly, and that control's card.

    `arms`: how many arms this one was the best of. Being picked as the best of k inflates its lead, so the p-value is
    multiplied by k (Bonferroni).
    """
    controls = [constant_control(task, card)]
    if task.kind == "text":
        controls.append(swapped_control(task, card))
    compared = [(compare(card, control, task), control) for control in controls]
    weakest, control = max(compared, key=lambda pair: (pair[0].difference <= 0, pair[0].p, -pair[0].difference))
    return replace(weakest, p_adjusted=min(1.0, weakest.p * arms)), control


def constant_control(task: Task, card: Scorecard) -> Scorecard:
    """The rows of `card`, all answered with the task's constant."""
    return _card(CONSTANT, task, card, [task.grade(task.constant, grade.expected) for grade in card.grades])


def swapped_control(task: Task, card: Scorecard, *, seed: int = 0) -> Scorecard:
    """Each answer of `card` judged against three other rows; its score is their mean."""
    order = np.random.default_rng(seed).permutation(len(card.grades))
    place = {int(row): position for position, row in enumerate(order)}
    shifts = sorted({len(order) * k // (_SHIFTS + 1) for k in range(1, _SHIFTS + 1)} - {0})
    grades = []
    for row, grade in enumerate(card.grades):
        others = [card.grades[order[(place[row] + shift) % len(order)]] for shift in shifts]
        scores = [task.grade(grade.answer, other.expected).scores[task.metric] for other in others]
        grades.append(Grade(grade.answer, grade.expected, {task.metric: float(np.mean(scores))}))
    return _card(SWAPPED, task, card, grades)


def _card(name: str, task: Task, card: Scorecard, grades: list[Grade]) -> Scorecard:
    interval = mean_interval(np.array([grade.scores[task.metric] for grade in grades]))
    return Scorecard(name, card.split, tuple(grades), {task.metric: interval}, 0.0, 0.0)
