"""The nouns that flow between folders: frozen, typed, free of behaviour beyond looking at themselves.

Nothing here reads a file, knows a model or imports anything but the standard library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Severity = Literal["error", "warning", "note"]
SplitName = Literal["train", "validation", "test"]
TaskKind = Literal["classification", "structured", "text"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool: its name, and its arguments as the JSON text of an object. `id`: what its result names."""

    name: str
    arguments: str
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `content` is plain text; it can never become a control token."""

    role: Role
    content: str
    # From here on not shown: which rows are kept for the test hangs on how messages are shown (road/prepare.py).
    weight: int | None = field(default=None, repr=False)
    """Of the assistant's messages: 1 to learn it, 0 not to, None where the data do not say."""
    calls: tuple[Call, ...] = field(default=(), repr=False)
    """Of the assistant's messages: the tools that it calls, after what it says."""
    answers: Call | None = field(default=None, repr=False)
    """Of a tool's messages: the call whose result it is."""

    def to_json(self) -> dict[str, Any]:
        """As the fine-tuning API writes it: calls without a word have `content` null."""
        return {
            "role": self.role,
            **({} if self.answers is None else {"tool_call_id": self.answers.id}),
            "content": None if self.calls and not self.content else self.content,
            **({"tool_calls": [call.to_json() for call in self.calls]} if self.calls else {}),
            **({} if self.weight is None else {"weight": self.weight}),
        }


@dataclass(frozen=True, slots=True)
class Conversation:
    """One example: messages that end in the assistant's ideal answer. `line` is where it stood in the file (from 1)."""

    messages: tuple[Message, ...]
    line: int = 0
    tools: str = ""
    """What the assistant may call, as the JSON text of the row's list; empty where it may call nothing."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may hold several calls, where the row says so. Templates are not shown it."""

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools as JSON objects, as chat templates take them."""
        return json.loads(self.tools) if self.tools else []

    @property
    def identity(self) -> tuple[object, ...]:
        """All but the line: equal for an example and its repetitions."""
        return self.messages, self.tools, self.parallel_tool_calls

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the ideal answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The ideal answer as one text: what it says, then each call as `NAME(ARGUMENTS)` on a line of its own."""
        last = self.messages[-1]
        if not last.calls:
            return last.content
        calls = [f"{call.name}({call.arguments})" for call in last.calls]
        return "\n".join([last.content, *calls] if last.content.strip() else calls)

    @property
    def question(self) -> str:
        """The text of the last user turn: what retrieval searches with and what duplicates are judged by."""
        return next((m.content for m in reversed(self.prompt) if m.role == "user"), "")

    def learned(self, otherwise: Literal["last", "all"]) -> frozenset[int]:
        """Which messages are learned, by their place: as the weights say (without one counts as 1), else `otherwise`.

        The fine-tuning API means the same by its weights.
        """
        places = [place for place, message in enumerate(self.messages) if message.role == "assistant"]
        if any(message.weight is not None for message in self.messages):
            return frozenset(place for place in places if self.messages[place].weight != 0)
        return frozenset(places if otherwise == "all" else places[-1:])

    def to_json(self) -> dict[str, Any]:
        """The example as a chat row of a file."""
        parallel = {} if self.parallel_tool_calls is None else {"parallel_tool_calls": self.parallel_tool_calls}
        return {
            "messages": [message.to_json() for message in self.messages],
            **({"tools": self.offered, **parallel} if self.tools else {}),
        }


@dataclass(frozen=True, slots=True)
class Preference:
    """One judgement: to this prompt, `chosen` is the better reply and `rejected` the worse. `line`: as in the file."""

    prompt: tuple[Message, ...]
    """Ends in a message of the user."""
    chosen: str
    rejected: str
    line: int = 0

    def answered(self, reply: str) -> tuple[Message, ...]:
        """The prompt with `reply` as the assistant's message."""
        return (*self.prompt, Message("assistant", reply))


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn as it stands. `file`: where it is from; `line`: of the row in it, 0 where it is the file."""

    text: str
    file: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered conversation: `ids` and, for each, whether it is learned (`learn[i]`: loss on predicting `ids[i]`)."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: text, its length, and why it stopped (`stop`: end token; `length`: token limit)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One flaw of the data: which rule, where (`line` 0: the file as a whole), what it costs, and the cure."""

    rule: str
    line: int
    severity: Severity
    message: str
    cost: str = ""
    cure: str = ""
    file: str = ""
    """Where there are several files: which."""

    @property
    def place(self) -> str:
        """`FILE, line N`, or what there is of it."""
        return ", ".join(filter(None, (self.file, f"line {self.line}" if self.line else "")))

    def to_json(self) -> dict[str, Any]:
        return {
            **({"file": self.file} if self.file else {}),
            "rule": self.rule,
            "line": self.line,
            "severity": self.severity,
            "message": self.message,
            "cost": self.cost,
            "cure": self.cure,
        }


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file of examples as read: the good rows, what was wrong with the others, and how it was understood."""

    path: str
    layout: str
    """How the rows were understood, in words: `chat messages`, `prompt / completion`, `CSV text -> category`."""
    examples: tuple[Conversation, ...]
    findings: tuple[Finding, ...]
    rows: int
    """Rows in the file, good and bad (blank lines are not rows)."""
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True, slots=True)
class PreferenceSet:
    """A file of preferences as read: the good rows, what was wrong with the others, and how it was understood."""

    path: str
    layout: str
    """How the rows were understood, in words: `prompt / chosen / rejected`."""
    pairs: tuple[Preference, ...]
    findings: tuple[Finding, ...]
    rows: int
    """Rows in the file, good and bad."""
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """A file or folder of texts as read: the good documents, what was wrong with the others, how it was understood."""

    path: str
    layout: str
    """What was there, in words: `3 text files`, `120 JSON rows`."""
    documents: tuple[Document, ...]
    findings: tuple[Finding, ...]
    sha256: str
    """Of the file's bytes; of a folder: of the names and bytes of the files that were read."""


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts of a data set. Test is sealed: choices are made on validation."""

    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]
    test: tuple[Conversation, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer judged: `scores` by metric name (0 … 1 per row), the main one under the task's `metric`."""

    answer: str
    expected: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """An arm's grades on a split, row by row in the split's order, and their summary."""

    arm: str
    split: SplitName
    grades: tuple[Grade, ...]
    metrics: dict[str, Interval]
    tokens_per_request: float
    seconds_per_request: float
    details: dict[str, Any] = field(default_factory=dict)
    """What the arm was: the chosen system prompt, the number of shots, the candidates tried."""
