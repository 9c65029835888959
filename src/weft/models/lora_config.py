"""The settings of a LoRA adapter, apart from the layers, so that reading them needs no torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from weft.settings import Config

ALL_LINEAR = "all-linear"
_SPELLINGS = {
    "q": ("q_proj", "q_lin", "query"),
    "k": ("k_proj", "k_lin", "key"),
    "v": ("v_proj", "v_lin", "value"),
    "o": ("o_proj", "out_proj", "out_lin"),
    "gate": ("gate_proj",),
    "up": ("up_proj",),
    "down": ("down_proj",),
}
"""Short names of projections, as papers write them, and what bases call these; the first is the usual one."""


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
    """Layers with an adapter: `all-linear` (all but the output head), or names, short (`q,k,v,o,gate,up,down`) or as
    the base has them (`q_proj`), and patterns (`*.mlp.*`)."""
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


def meant(target: str, names: Collection[str]) -> list[str]:
    """Those of a base's layers, by their `names`, that one target means: none where nothing fits, or too much does.

    A name or pattern that fits is taken as it stands; only then a short name stands for how the base spells it.
    """
    found = [name for name in names if _fits(target, name)]
    spelled = spellings(target, names)
    if found or not (len(spelled) == 1 or f"{target}_proj" in spelled):
        return found
    return [name for name in names if _fits(spelled[0], name)]


def spellings(target: str, names: Collection[str]) -> list[str]:
    """What those layers call the projection that goes by the short name `target`, the usual spelling first."""
    there = {name.rsplit(".", 1)[-1] for name in names}
    return [spelling for spelling in _SPELLINGS.get(target, ()) if spelling in there]


def _fits(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}") or fnmatch.fnmatchcase(name, target)
