"""One reply on its way through the engine, and what makes a request impossible from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from weft.errors import UsageError
from weft.generate.adapters import Loaded
from weft.generate.constrain import Matcher
from weft.generate.draw import Drawing
from weft.generate.requests import MOST_TOP_LOGPROBS, Generation, Limits, Step
from weft.generate.work import Work


@dataclass(eq=False, slots=True)
class Row:
    """One reply. Only the engine's thread changes it, but for `cancelled`."""

    generation: Generation
    on_step: Callable[[Step], None]
    drawing: Drawing
    adapter: Loaded[Any] | None = None
    matcher: Matcher | None = None
    seat: Any = None
    """Its keys and values; None before it begins and after it has ended."""
    names: list[bytes] = field(default_factory=list)
    """The prompt's blocks, as the prefix cache knows them."""
    kept: int = 0
    """So many of them were offered to the cache."""
    read: int = 0
    """Prompt tokens that were read."""
    cached: int = 0
    """Prompt tokens that came from the cache."""
    cancelled: bool = False

    @property
    def answering(self) -> bool:
        """Whether the whole prompt was read."""
        return self.read == len(self.generation.prompt)

    @property
    def reach(self) -> int:
        """Tokens of prompt and reply at the longest."""
        return len(self.generation.prompt) + self.generation.draw.max_tokens

    def work(self, room: int) -> Work:
        """What the row does next, reading at most `room` tokens of its prompt."""
        packed = None if self.adapter is None else self.adapter.packed
        if self.answering:
            return Work(self.seat, packed, self.drawing.drawn[-1:], asks=True, answering=True)
        ids = self.generation.prompt[self.read : self.read + room]
        return Work(self.seat, packed, ids, self.read + len(ids) == len(self.generation.prompt), answering=False)


def refuse_impossible(
    generation: Generation, name: str, context: int, vocabulary: int, token_bytes: int, limits: Limits
) -> None:
    """Raises UsageError for a request that the base called `name` could never answer within its limits."""
    prompt, draw = generation.prompt, generation.draw
    bad = [token for token in prompt if not 0 <= token < vocabulary]
    bad += [token for token, _ in draw.logit_bias if not 0 <= token < vocabulary]
    if not prompt:
        raise UsageError("the prompt has no tokens.")
    if draw.max_tokens < 1:
        raise UsageError(f"max_tokens is {draw.max_tokens}, expected 1 or more.")
    if bad:
        raise UsageError(f"token {bad[0]} is not one of {name}'s {vocabulary} (0 to {vocabulary - 1}).")
    if draw.top_logprobs is not None and not 0 <= draw.top_logprobs <= MOST_TOP_LOGPROBS:
        raise UsageError(f"top_logprobs is {draw.top_logprobs}, expected 0 to {MOST_TOP_LOGPROBS}.")
    reach = len(prompt) + draw.max_tokens
    if reach > context:
        raise UsageError(
            f"{len(prompt)} prompt tokens and up to {draw.max_tokens} for the answer exceed the context of {name} "
            f"({context}). Shorten the prompt or lower the answer's limit."
        )
    if reach * token_bytes > limits.held_bytes:
        raise UsageError(
            f"{reach} tokens need {reach * token_bytes / 2**20:.1f} MiB of keys and values, more than the "
            f"{limits.held_bytes / 2**20:.1f} MiB that this server gives. Shorten the prompt or lower the answer's "
            "limit."
        )
