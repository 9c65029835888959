"""Who answers a request, whether it fits, and how its answers are drawn.

`speaker` waits on the event loop (a base is loaded on its first use); all else takes time, and routes call it in a
thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from weft.generate.requests import Draw
from weft.serve.errors import ApiError, invalid, unavailable
from weft.serve.server import Server
from weft.serve.wire.sampled import Sampled

if TYPE_CHECKING:
    from weft.generate.continuous import Engine
    from weft.models.load import Base


@dataclass(frozen=True)
class Speaker:
    """Who answers a request, fixed at its admission: a name that means something else later changes nothing."""

    base: Base
    name: str
    """The base's public name."""
    engine: Engine
    adapter: str | None

    @property
    def fingerprint(self) -> str:
        """The base's name and a short hash of its files and the adapter: `weft-nano-1f3870be27`."""
        digest = hashlib.sha256(f"{self.base.fingerprint} {self.adapter or ''}".encode()).hexdigest()
        return f"{self.name}-{digest[:10]}"

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together: the base's context, or what the engine holds of it."""
        return self.engine.longest


async def speaker(server: Server, model: str, owner: str) -> Speaker:
    """Who answers to this name, once its base is loaded. Raises NotThere, ApiError 503."""
    if server.draining.is_set():
        raise unavailable("The server is stopping; ask again when it is back.", "draining")
    if model.startswith("ft:"):  # looked up in the store
        answerer = await run_in_threadpool(server.names.resolve, model, owner)
    else:
        answerer = server.names.resolve(model, owner)
    await server.engines.opened(answerer.base)
    base, engine = server.engines.base(answerer.base), server.engines(answerer.base)
    return Speaker(base, server.names.shown(answerer.base), engine, answerer.adapter)


def refuse_endless(speaker: Speaker, characters: int, param: str) -> None:
    """Refuse a prompt that no reading of its length could fit, before work is spent on it. Raises ApiError 400."""
    most = speaker.longest * 256  # the longest tokens of large vocabularies have 128 characters
    if characters > most:
        raise _too_long(speaker, f"the prompt has {characters:,} characters, which is more than {most:,}", param)


def room(speaker: Speaker, prompt: int, asked: int | None, param: str) -> int:
    """How many tokens an answer may have behind a prompt of so many: what was asked, else what is left.

    Raises ApiError 400 `context_length_exceeded` where that does not fit; nothing is ever cut.
    """
    left = speaker.longest - prompt
    if left < max(1, asked or 0):
        wanted = f" and {asked:,} for the answer" if asked is not None else ", which leaves none for the answer"
        raise _too_long(speaker, f"you requested {prompt:,} tokens for the prompt{wanted}", param)
    return left if asked is None else asked


def _too_long(speaker: Speaker, found: str, param: str) -> ApiError:
    said = f"This model's maximum context length is {speaker.longest:,} tokens. However, {found}."
    return invalid(f"{said} Shorten the prompt or ask for fewer tokens.", param, "context_length_exceeded")


def draws(speaker: Speaker, body: Sampled, count: int, max_tokens: int, top_logprobs: int | None) -> list[Draw]:
    """How each of `count` answers to one prompt is drawn. Raises ApiError 400 for a token that there is not."""
    bias = tuple((int(token), value) for token, value in (body.logit_bias or {}).items())
    unknown = next((token for token, _ in bias if token >= speaker.base.vocabulary), None)
    if unknown is not None:
        raise invalid(f"logit_bias: token {unknown} is not below {speaker.base.vocabulary:,}.", "logit_bias")
    return [
        Draw(
            max_tokens=max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=None if body.seed is None else (body.seed + number) % 2**63,
            logit_bias=bias,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            top_logprobs=top_logprobs,
        )
        for number in range(count)
    ]
