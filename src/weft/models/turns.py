"""What a conversation with tools has beyond plain messages: calls by the assistant, and what tools answered.

`Chat.prompt` takes `Turn`s wherever it takes `records.Message`s. Which tools there are is a list of JSON objects in the
shape that chat templates expect: `{"type": "function", "function": {"name", "description", "parameters"}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.records import Message

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool: its name, and its arguments as the JSON text of an object."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn where tools are in play. `content` is plain text; it can never become a control token."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    calls: tuple[Call, ...] = ()
    """Of the assistant."""
    answers: Call | None = None
    """The call that this message of a tool answers."""


Said = Message | Turn
