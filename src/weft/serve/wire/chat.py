"""A request for a chat completion, with every bound.

What a message may hold is judged by `chat_messages.py`, tools by `tools.py`: their refusals name the message, which a
union of shapes could not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from weft.serve.wire.body import Body, Metadata
from weft.serve.wire.sampled import ONE, SEVERAL, Sampled, one_or_several

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]
MOST_MESSAGES = 2048


class Part(Body):
    """A part of a message's content; texts are the only kind that a base here reads."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = Annotated[
    Annotated[str, Tag(ONE)] | Annotated[list[Part], Field(fail_fast=True), Tag(SEVERAL)],
    Discriminator(one_or_several),
]


class FunctionCall(Body):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant made."""

    id: str = Field(max_length=256)
    type: str = "function"
    function: FunctionCall | None = None


class ChatMessage(Body):
    """One message of the conversation."""

    role: Role
    """`developer` is read as `system`."""
    content: Content | None = None
    name: str | None = None
    """Taken and without effect: chat templates know no names of speakers."""
    tool_calls: list[ToolCall] | None = None
    """Of the assistant: the calls that it made."""
    tool_call_id: str | None = None
    """Of a tool: the call that it answers."""
    refusal: str | None = None
    """Of the assistant: read as its content where there is none."""
    weight: Literal[0, 1] | None = None
    """Taken and without effect: it matters in training only."""
    function_call: FunctionCall | None = None
    """The older form of `tool_calls`; refused."""


class Function(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; none: there are no arguments."""
    strict: bool | None = None
    """Taken; arguments follow the schema wherever the call itself is demanded (`tool_choice`)."""


class Tool(Body):
    """A tool; functions are the only kind here."""

    type: str
    function: Function | None = None


class JsonSchema(Body):
    """The schema that an answer must follow."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """JSON schema; none: any object."""
    strict: bool | None = None
    """Taken; an answer always follows the schema."""


class ResponseFormat(Body):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampled):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    """Longest answer in tokens; default: what the base's context leaves."""
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    """The older name of `max_completion_tokens`."""
    logprobs: bool | None = None
    """Whether to tell each token's log-probability."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """And those of so many most probable tokens at its place."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    """`none`, `auto`, `required`, a named function, or allowed tools; default `auto`."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may hold several calls; default true."""
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    """`["text"]` alone."""
    audio: dict[str, Any] | None = None
    """Refused: answers are text."""
    web_search_options: dict[str, Any] | None = None
    """Refused: nothing here goes out to the web."""
    functions: list[Any] | None = None
    """The older form of `tools`; refused."""
    function_call: str | dict[str, Any] | None = None
    """The older form of `tool_choice`; refused."""
    store: bool | None = None
    """`true` is taken, and the answer is not stored."""
    metadata: Metadata | None = None
    """Without effect."""
    reasoning_effort: str | None = None
    """Without effect, with a warning."""
    verbosity: str | None = None
    """Without effect, with a warning."""
    prediction: dict[str, Any] | None = None
    """Without effect: it is a hint for speed."""
    service_tier: str | None = None
    """Without effect."""
    safety_identifier: str | None = Field(None, max_length=64)
    """Without effect."""
    prompt_cache_key: str | None = None
    """Without effect: beginnings are found by their tokens."""

    def warnings(self) -> list[str]:
        """What was asked and has no effect."""
        kept = ["store: completions are not stored here"] if self.store else []
        without = [name for name in ("reasoning_effort", "verbosity") if getattr(self, name) is not None]
        return super().warnings() + kept + [f"{name} has no effect here" for name in without]
