"""How a reply is drawn, apart from the drawing so that `weft chat --help` need not load torch."""

from __future__ import annotations

from pydantic import Field

from weft.settings import Config


class Sampling(Config):
    """How a reply is drawn."""

    max_tokens: int = Field(default=256, ge=1)
    """Longest reply in tokens, end token included."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 takes the most probable token; higher values vary more."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only among the most probable tokens that together reach this share."""
    seed: int = Field(default=0, ge=0)
    """The same seed draws the same reply."""
