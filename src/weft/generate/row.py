"""One reply on its way through the engine, and what makes a request impossible from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weft.errors import RunError, UsageError
from weft.generate.adapters import Loaded
from weft.generate.constrain import Matcher
from weft.generate.draw import Drawing, Picked, score
from weft.generate.requests import MOST_TOP_LOGPROBS, Generation, Limits, Step
from weft.generate.work import Work

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False, slots=True)
class Row:
    """One reply. Only the engine's thread changes it, but for `cancelled`."""

    generation: Generation
    on_step: Callable[[Step], None]
    drawing: Drawing
    adapter: Loaded[Any] | None = None
    matcher: Matcher | None = None
    asks_end: bool = False
    """Whether a reply whose form is complete goes on to its end token all the same: to see whether it would end."""
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
        last = self.read + len(ids) == len(self.generation.prompt)
        return Work(self.seat, packed, ids, last, answering=False, scores=self.generation.prompt_logprobs is not None)

    def scored(self, logits: Tensor) -> Step:
        """What the row hears of its prompt: logits (n, V) behind each id of the piece that was just read."""
        tokens = self.generation.prompt[self.read + 1 : self.read + 1 + len(logits)]
        said = score(logits[: len(tokens)], tokens, self.generation.prompt_logprobs or 0)
        return Step(
            prompt_logprobs=tuple(one.logprob or 0.0 for one in said), prompt_top=tuple(one.top for one in said)
        )

    def took(self, picked: Picked | None) -> Step:
        """What the row hears of its next token. Raises RunError where the model gave no finite number for any."""
        if picked is None:
            raise RunError("the model gave no finite number for the next token.")
        token, finish = picked.token, None
        if token in self.generation.end_ids:
            return Step(finish="stop", cached=self.cached)
        self.drawing.took(token)
        if self.matcher is not None:
            self.matcher.took(token)
            finish = "stop" if self.matcher.done and not self.asks_end else None
        if finish is None and len(self.drawing.drawn) >= self.generation.draw.max_tokens:
            finish = "length"
        logprobs = () if picked.logprob is None else (picked.logprob,)
        top = (picked.top,) if logprobs else ()
        return Step((token,), logprobs, top, finish=finish, cached=self.cached)


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
    for what, asked in (("top_logprobs", draw.top_logprobs), ("prompt_logprobs", generation.prompt_logprobs)):
        if asked is not None and not 0 <= asked <= MOST_TOP_LOGPROBS:
            raise UsageError(f"{what} is {asked}, expected 0 to {MOST_TOP_LOGPROBS}.")
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
