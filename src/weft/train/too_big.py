"""Whether a training can be known to be too big from the base's folder and the settings alone, before anything loads.

A bound from below: the weights, what learns with its optimizer, and one token. What the examples themselves need is
worked out when they are tokens (`needs.py`). No library is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from weft.errors import ResourceError
from weft.models import memory, plan
from weft.models.facts import FAMILIES, inspect
from weft.models.shape import FLOAT, Learning, Pass, Shape
from weft.train import disk, torchrun
from weft.train.tuning_config import TuningConfig

Quantize = Literal["none", "nf4"]
ONE = Pass(tokens=1, states=1, cells=1, kept_cells=1, widest=1)


@dataclass(frozen=True, slots=True)
class Least:
    """What a training cannot do without."""

    parameters: int
    """Of the base."""
    trained: int
    """Numbers that learn."""
    memory: int
    """In bytes."""


def refuse_too_big(name: str, folder: Path, config: TuningConfig, out: Path, quantize: Quantize = "none") -> None:
    """Raise ResourceError where memory, or the disk of `out`, cannot hold the least that this training needs.

    `name`: the base in `folder`, as the user wrote it; `quantize`: how its weights will be kept. Raises ModelError for
    a folder that is no base.
    """
    least = least_needed(folder, config, quantize)
    if least is None:
        return
    free = memory.available_bytes(Path("/"))
    if free is not None and least.memory > free:
        what = "all of its" if config.full else f"an adapter of {least.trained:,}"
        raise ResourceError(
            f"training {name} ({least.parameters:,} parameters), {what} numbers with their optimizer, needs at least "
            f"{least.memory / 1e9:,.2f} GB of memory; {free / 1e9:,.2f} GB are free. "
            f"{'Leave out --full' if config.full else 'Lower --lora-r'}, choose a smaller base, close other programs, "
            "or raise the container's limit."
        )
    published = least.parameters if config.full else least.trained
    disk.require(out, disk.forecast(least.trained, published * FLOAT))


def least_needed(folder: Path, config: TuningConfig, quantize: Quantize = "none") -> Least | None:
    """The least that this training of the base in `folder` needs; None for a family that names its sizes otherwise,
    which is known when it is loaded. Raises ModelError for a folder that is no base."""
    facts = inspect(folder)
    given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        shape = Shape.of(given, facts.model_type in FAMILIES)
    except KeyError:
        return None
    learning = Learning.of(
        shape,
        config.lora,
        full=config.full,
        precision="float32",
        quantized=quantize != "none",
        holders=torchrun.count(),
    )
    if config.full:
        learning = replace(learning, counted=facts.parameters)
    trained = learning.trained(shape)
    least = plan.memory(shape, learning, ONE, logits=shape.vocabulary, several=False)
    needed = (
        plan.weight_bytes(shape, facts.parameters, learning)
        + least.learned
        + min(least.step, learning.held(shape) * FLOAT)
    )
    return Least(facts.parameters, trained, needed)
