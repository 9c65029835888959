"""Completions on the wire: text is continued as it stands, without a chat template."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from weft.serve.wire.sampled import ONE, SEVERAL, Answer, Sampled, Usage, one_or_several

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
MOST_PROMPTS = 128


_IDS, _SEVERAL_IDS = "token ids", "several times token ids"


def _kind(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], int | float | list):
        return _SEVERAL_IDS if isinstance(value[0], list) else _IDS
    return one_or_several(value)


Prompt = Annotated[
    Annotated[str, Tag(ONE)]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS), Tag(SEVERAL)]
    | Annotated[Ids, Tag(_IDS)]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), Tag(_SEVERAL_IDS)],
    Discriminator(_kind),
]


class CompletionRequest(Sampled):
    """`POST /v1/completions`."""

    prompt: Prompt | None = None
    """One text or several, or the token ids of one or of several. Texts are read as text: nothing in them is a control
    token. None: the beginning of a document."""
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    """Longest completion in tokens; default 16."""
    echo: bool | None = None
    """Give the prompt back before its completion; with `logprobs`, its tokens' too."""
    logprobs: int | None = Field(None, ge=0, le=5)
    """Tell each token's log-probability, and those of so many most probable ones."""
    best_of: int | None = Field(None, ge=1, le=20)
    """Generate so many and give the `n` whose tokens are most probable on average; not with `stream`."""
    suffix: str | None = None
    """Refused: bases here know no text that follows."""


class CompletionLogprobs(Answer):
    """Log-probabilities of a completion, token by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first of echoed token ids, which nothing stands before."""
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]
    """Where each token begins, in characters of the choice's text."""


class CompletionChoice(Answer):
    """One completion; those of the first prompt come first."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """The answer to a request without `stream`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    """As it was asked for."""
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    """The base that really answered, and a short hash of its files and the adapter's."""

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()
