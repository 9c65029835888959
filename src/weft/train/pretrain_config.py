"""The settings of going on to learn from documents, apart from its loop so that `weft train --help` needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from weft.train.tuning_config import LikelihoodConfig

SHORTEST = 16


class PretrainConfig(LikelihoodConfig):
    """Domain adaptation: every token of documents, packed."""

    train_end_token: Literal[False] = False
    """Documents hold no end of a reply that could be learned."""
    batch_size: int = Field(default=4, ge=1)
    """Packs per optimizer step, each of at most `max_tokens` tokens."""
    max_tokens: int | Literal["auto"] = "auto"
    """Longest row and fullest pack in tokens; longer documents go on in a new row. `auto`: the context, up to 2,048."""
    replay: str | None = None
    """File or folder of general text that is learned beside the documents, so that less of it is forgotten."""
    replay_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the packs that come from `replay`."""
    document_end: str = "auto"
    """Control token after each document; `auto`: the base's own, by its name and by whether it was learned."""

    @field_validator("max_tokens")
    @classmethod
    def _long_enough(cls, tokens: int | str) -> int | str:
        if isinstance(tokens, int) and tokens < SHORTEST:
            raise ValueError(f"rows of fewer than {SHORTEST} tokens are not worth learning")
        return tokens
