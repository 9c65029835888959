"""What is asked of the serving engine and what comes back, token by token. Data only: importing this loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from weft.errors import ResourceError

if TYPE_CHECKING:
    from weft.generate.constrain import Constraint

Finish = Literal["stop", "length", "cancelled", "error"]
MOST_TOP_LOGPROBS = 20


class Full(ResourceError):
    """The waiting line has no place for this request now; `retry_after` is a guess in seconds of when it will."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Draw:
    """How the tokens of one reply are drawn; the words and their meaning are those of OpenAI's API."""

    max_tokens: int
    """Longest reply in tokens."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    seed: int | None = None
    """The same seed draws the same reply, whatever else is in the batch. None: a fresh one for each request."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, added to its logit)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the reply holds it already."""
    presence_penalty: float = 0.0
    """Taken once from the logit of each token that the reply holds already."""
    top_logprobs: int | None = None
    """None: no log-probabilities. 0 to 20: the chosen token's, and those of so many most probable ones."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One reply to be generated."""

    prompt: tuple[int, ...]
    """Token ids; at least one."""
    draw: Draw
    adapter: str | None = None
    """Identity of the adapter that answers; None: the base itself."""
    end_ids: frozenset[int] = frozenset()
    """Tokens that end the reply. They are not told."""
    constraint: Constraint | None = None
    """What the reply must look like."""
    owner: str = "local"
    """Whose turn it is: waiting requests are taken in turn from the owners."""
    prompt_logprobs: int | None = None
    """None: the prompt is only read. 0 to 20: its tokens are told with their log-probabilities, all but the first, and
    with those of so many most probable ones. The prefix cache gives such a prompt nothing: all of it is read."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a request hears: new tokens, and at the last step why it ended. Nothing follows a `finish`."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """One per id, natural logarithm, of the model's own distribution; empty unless they were asked for."""
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per id the most probable (token, log-probability), best first; empty unless they were asked for."""
    finish: Finish | None = None
    cached: int = 0
    """Prompt tokens whose keys and values came from the cache."""
    error: str | None = None
    """What went wrong, where `finish` is `error`."""
    prompt_logprobs: tuple[float, ...] = ()
    """Of the prompt's tokens as they are read, from the second on, in pieces and before the first new token."""
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per such token the most probable ones at its place."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine may hold at once."""

    rows: int = 32
    """Replies that are generated together."""
    chunk: int = 256
    """Most prompt tokens read in one step, so that a long prompt does not hold up the others."""
    waiting: int = 256
    """Requests in the line."""
    waiting_tokens: int = 1_000_000
    """Prompt tokens of all requests in the line."""
    held_bytes: int = 2 * 2**30
    """Keys and values that running replies may come to at their longest, together."""
    cache_bytes: int = 512 * 2**20
    """Keys and values kept for prompts to come; 0: none."""
    adapter_bytes: int = 1 * 2**30
    """Adapters kept in memory. Those in use stay, even where they alone are larger."""

    def __post_init__(self) -> None:
        low = {"rows": 1, "chunk": 1, "waiting": 1, "waiting_tokens": 1, "held_bytes": 1}
        for name, least in (low | {"cache_bytes": 0, "adapter_bytes": 0}).items():
            value = getattr(self, name)
            if value < least or not math.isfinite(value):
                raise ValueError(f"Limits.{name} is {value}, expected {least} or more")


@dataclass(frozen=True, slots=True)
class Counts:
    """How an engine stands, for metrics."""

    running: int
    waiting: int
    waiting_tokens: int
    cached_tokens: int
    """Tokens whose keys and values are kept in the prefix cache."""
    cached_bytes: int
    adapters: int
    """Adapters in memory."""
    adapter_bytes: int
    generated: int
    """Tokens generated since the start."""
    read: int
    """Prompt tokens read since the start."""
    reused: int
    """Prompt tokens that came from the cache since the start."""
