"""The ways of answering that are measured against each other, one file each; `evaluate/run.py` acts on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from weft.models.chat import Chat
from weft.records import Conversation, Message

TITLES = {
    "zero-shot": "Base as it is",
    "prompted": "Base with a system prompt",
    "few-shot": "Base with nearest examples",
    "rag": "Base with passages",
    "classical": "TF-IDF + logistic regression",
    "tuned": "Fine-tuned base",
}


@dataclass(frozen=True)
class Arm:
    """One way of asking a model: `messages` is what it is shown for an example, `details` go into the report."""

    name: str
    messages: Callable[[Conversation], tuple[Message, ...]]
    details: dict[str, Any] = field(default_factory=dict)


def instructed(chat: Chat, messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The same messages with `text` as, or appended to, the system message.

    A template that takes no system message gets it at the head of the first turn.
    """
    first, *rest = messages
    if first.role == "system" or not chat.accepts_system:
        joined = f"{first.content}\n\n{text}" if first.role == "system" else f"{text}\n\n{first.content}"
        return (Message(first.role, joined), *rest)
    return (Message("system", text), *messages)
