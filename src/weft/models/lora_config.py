"""The settings of a LoRA adapter, apart from the layers, so that reading them needs no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from weft.settings import Config

ALL_LINEAR = "all-linear"


class LoraConfig(Config):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(default=16, ge=1, le=1024)
    """Rank: width of the bottleneck. Parameters and memory of the adapter grow with it."""
    alpha: float = Field(default=32.0, gt=0)
    """Strength: the update is scaled by `alpha / r` (with `rslora` by `alpha / sqrt(r)`)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Share of inputs to the adapter that training drops at random; `auto`: 0.1 for labels on bases of under 50
    million parameters, else none."""
    targets: Literal["all-linear"] | tuple[str, ...] = ALL_LINEAR
    """Layers with an adapter: `all-linear` (all but the output head), or names and patterns (`q_proj`, `*.mlp.*`)."""
    rslora: bool = False
    """Scale by `alpha / sqrt(r)`: high ranks learn as fast as low ones (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Learn each output's length apart from its direction (DoRA, Liu et al. 2024, arXiv:2402.09353); slower."""

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A command line gives one text: `q_proj,v_proj`."""
        if isinstance(value, str) and value != ALL_LINEAR:
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def dropped(self) -> float:
        """`dropout` as a number: none where no training has said what `auto` means."""
        return 0.0 if self.dropout == "auto" else self.dropout

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)
