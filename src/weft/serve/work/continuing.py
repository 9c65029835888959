"""Go on from a tuned model: its adapter becomes part of the weights, another learns on top, both are published as one.

    W + s₁ B₁ A₁ + s₂ B₂ A₂  =  W + [s₁ B₁  s₂ B₂] [A₁; A₂]         rank r₁ + r₂, nothing lost

So the result is an adapter of the same base, as every other. Of the vocabulary's replaced rows the later ones count.
DoRA's lengths do not add up: such an adapter cannot be gone on from, nor be learned on top.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from weft.errors import UsageError
from weft.models import lora
from weft.models.load import Base
from weft.models.lora_config import LoraConfig
from weft.models.lora_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, write_adapter

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_ROWS = ".token_adapter.trainable_tokens_delta"
_MOST_RANK = 1024


@dataclass(frozen=True)
class _Update:
    """What an adapter's folder adds to its base."""

    rank: int
    layers: dict[str, tuple[Tensor, Tensor]]
    """Name → A (r, in) and B (out, r) with its scale in it."""
    rows: dict[str, dict[int, Tensor]]
    targets: list[str]
    transposed: bool


def go_on_from(base: Base, folder: Path, further: LoraConfig) -> None:
    """Make the adapter in `folder` part of `base`, in place; `further` is what will learn on top.

    Raises ModelError where it does not fit the base, UsageError where the two cannot be one adapter.
    """
    config = lora.load_adapter(base.model, folder)
    if config.dora or further.dora:
        raise UsageError("a job cannot go on from a model with DoRA, nor learn DoRA on top; start from the base.")
    if config.r + further.r > _MOST_RANK:
        raise UsageError(
            f"the model's adapter has rank {config.r}, and with {further.r} more it would have over {_MOST_RANK}; "
            "choose a smaller lora.r, or start from the base."
        )
    lora.fuse(base.model)


def join(earlier: Path, later: Path, folder: Path, base_name: str) -> None:
    """Write into `folder` the one adapter that does what `later` does on top of `earlier`. Raises ResourceError."""
    first, second = _read(earlier), _read(later)
    rank = first.rank + second.rank
    layers = {name: _stacked(first, second, name) for name in sorted({*first.layers, *second.layers})}
    rows = {
        name: {**first.rows.get(name, {}), **second.rows.get(name, {})} for name in sorted({*first.rows, *second.rows})
    }
    same = first.layers.keys() == second.layers.keys()
    write_adapter(
        folder,
        Adapter(
            LoraConfig(r=rank, alpha=float(rank)),  # the scale is in B already
            layers,
            {name: (tuple(own), torch.stack(list(own.values()))) for name, own in rows.items()},
        ),
        base_name=base_name,
        targets=second.targets if same else list(layers),
        transposed=first.transposed or second.transposed,
    )


def _stacked(first: _Update, second: _Update, name: str) -> dict[str, Tensor]:
    """A (r₁ + r₂, in) and B (out, r₁ + r₂) of a layer; zeros where one of them leaves it alone."""
    known_a, known_b = (first.layers if name in first.layers else second.layers)[name]
    parts = []
    for update in (first, second):
        nothing = known_a.new_zeros(update.rank, known_a.shape[1]), known_b.new_zeros(known_b.shape[0], update.rank)
        parts.append(update.layers.get(name, nothing))
    return {"lora_A": torch.cat([a for a, _ in parts]), "lora_B": torch.cat([b for _, b in parts], dim=1)}


def _read(folder: Path) -> _Update:
    """An adapter that weft wrote, or has loaded and so checked before."""
    stated = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    config = LoraConfig(r=stated["r"], alpha=stated["lora_alpha"], rslora=stated["use_rslora"])
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    layers, rows = {}, {}
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(_A):
            name = name.removesuffix(_A)
            layers[name] = tensor.float(), config.scale * tensors[f"{_PREFIX}{name}{_B}"].float()
        elif name.endswith(_ROWS):
            name = name.removesuffix(_ROWS)
            tokens = next(iter(stated["trainable_token_indices"].values()))
            rows[name] = dict(zip(tokens, tensor.float(), strict=True))
    return _Update(config.r, layers, rows, list(stated["target_modules"]), bool(stated["fan_in_fan_out"]))
