"""What chat completions and completions have in common: how an answer is drawn, and what it took.

Bounds stand here, so that a wrong number never reaches an engine.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from weft.serve.wire.body import Body, at_most

StopText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
ONE, SEVERAL = "one text", "several texts"
"""Names of the alternatives of a union: no identifiers, so that they stay out of a field's path."""


def one_or_several(value: Any) -> str:
    """Which alternative a value is to be judged by, so that a refusal speaks of that one alone."""
    return SEVERAL if isinstance(value, list) else ONE


Stops = Annotated[
    Annotated[StopText, Tag(ONE)] | Annotated[list[StopText], Field(min_length=1, max_length=4), Tag(SEVERAL)],
    Discriminator(one_or_several),
]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Biases = Annotated[
    dict[TokenKey, Bias],
    Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
    at_most(1024),
]


class StreamOptions(Body):
    """How a stream is told."""

    include_usage: bool | None = None
    """One more chunk before the end, without choices and with the usage."""
    include_obfuscation: bool | None = None
    """Taken and without effect: chunks are not padded."""


class Sampled(Body):
    """What chat completions and completions ask in common."""

    model: str = Field(min_length=1, max_length=256)
    """An alias or base of this server, or a tuned model (`ft:…`)."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0 takes the most probable token; default 1."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Draw among the most probable tokens that hold this much together; default 1."""
    n: int | None = Field(None, ge=1, le=128)
    """How many answers; default 1."""
    stop: Stops | None = None
    """Texts that end an answer, one to four; they are not part of it."""
    stream: bool | None = None
    """Server-sent events instead of one answer."""
    stream_options: StreamOptions | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    """The same seed draws the same answer."""
    logit_bias: Biases | None = None
    """Token id → what is added to its logit, −100 to 100."""  # noqa: RUF001
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    user: str | None = Field(None, max_length=512)
    """Without effect."""

    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Answer(BaseModel):
    """The base of what is sent."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class CachedTokens(Answer):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    """Read from the prefix cache."""
    audio_tokens: int = 0


class SpentTokens(Answer):
    """What the completion's tokens were."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Answer):
    """Tokens read and generated, of all answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: SpentTokens

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int) -> Usage:
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=CachedTokens(cached_tokens=cached),
            completion_tokens_details=SpentTokens(),
        )
