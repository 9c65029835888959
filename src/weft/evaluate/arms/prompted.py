"""A system prompt written from the training data: the task, the options, the form of the answer.

Several candidates are written; the caller measures them on validation and keeps the best.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.evaluate.arms import Arm, instructed
from weft.models.chat import Chat
from weft.records import Conversation
from weft.tasks import Task

OPENING = {
    "classification": "You are a classifier. Read the user's message and answer with its label and nothing else.",
    "structured": "You extract information. Read the user's message and answer in the given form and nothing else.",
    "text": "You answer the user's message in the manner described here.",
}


def candidates(chat: Chat, task: Task, train: Sequence[Conversation]) -> list[Arm]:
    """System prompts from terse to detailed; the last shows one training example of middling length."""
    form = task.shape.describe()
    opening = OPENING[task.kind]
    middle = sorted(train, key=lambda example: (len(example.question) + len(example.answer), example.line))[
        len(train) // 2
    ]
    shown = f"Example\nMessage: {middle.question}\nAnswer: {middle.answer}"
    texts = {
        "form": form,
        "task and form": f"{opening}\n\n{form}",
        "task, form and one example": f"{opening}\n\n{form}\n\n{shown}",
    }
    return [_arm(chat, name, text) for name, text in texts.items()]


def _arm(chat: Chat, candidate: str, text: str) -> Arm:
    return Arm(
        "prompted",
        lambda example: instructed(chat, example.prompt, text),
        {"candidate": candidate, "system_prompt": text},
    )
