"""What a chat completion answers, whole. Chunks of a stream are made where they are sent (`conversation.py`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from weft.serve.wire.sampled import Answer, Usage


class TopLogprob(Answer):
    """One of the most probable tokens at a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class Logprobs(Answer):
    """Log-probabilities of an answer, token by token."""

    content: list[TokenLogprob]
    refusal: None = None


class MadeFunctionCall(Answer):
    name: str
    arguments: str


class MadeCall(Answer):
    """A call in an answer."""

    id: str
    type: Literal["function"] = "function"
    function: MadeFunctionCall


class AnswerMessage(Answer):
    """What the assistant answers."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[Any] = Field(default_factory=list)
    tool_calls: list[MadeCall] | None = None


class Choice(Answer):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: Logprobs | None


class ChatCompletion(Answer):
    """The answer to a request without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    """As it was asked for."""
    choices: list[Choice]
    usage: Usage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
    """The base that really answered, and a short hash of its files and the adapter's."""

    def to_json(self) -> dict[str, Any]:
        """As it is sent: `tool_calls` is left out where there are none."""
        sent = self.model_dump()
        for choice in sent["choices"]:
            if choice["message"]["tool_calls"] is None:
                del choice["message"]["tool_calls"]
        return sent
