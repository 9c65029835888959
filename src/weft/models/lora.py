"""Adapters in three doors: `wrap` (learn), the layers' forward (apply), `fuse` (make them part of the weights).

An adapter is a low-rank update beside linear layers (LoRA, rsLoRA, DoRA: `lora_layers.py`) and, where a token's own
vector must learn, a few rows of the vocabulary (`token_rows.py`). This file puts them into a model and takes them out;
PEFT's files are read and written in `lora_files.py`. Biases and ranks per layer are left out.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from weft.errors import UsageError
from weft.models.lora_config import ALL_LINEAR, LoraConfig, meant, spellings
from weft.models.lora_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Room, read_adapter, write_adapter
from weft.models.lora_layers import LoraLinear, is_linear, layer_class, sizes
from weft.models.quant import refuse_fusing
from weft.models.token_rows import learn_rows, put_rows, require_vocabulary, saved_rows, tables_with_rows, vocabulary

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "LoraConfig",
    "LoraLinear",
    "adapts_head",
    "disabled",
    "fuse",
    "layers",
    "load_adapter",
    "save_adapter",
    "trainable_count",
    "unwrap",
    "wrap",
]


def wrap(model: nn.Module, config: LoraConfig, seed: int, *, tokens: Sequence[int] = ()) -> list[nn.Parameter]:
    """Freeze `model` and put an adapter beside each target layer, in place; returns what is to be trained.

    The vectors that say `tokens` learn too. The start depends on `seed` and each layer's name alone. Raises UsageError
    for targets that name no layer, a rank above a layer's size, a tied output head, vectors that cannot be carried, and
    where the model has an adapter already.
    """
    chosen = _choose(model, config)
    _refuse_misfits(model, chosen, config.r)
    if tokens and _head(model) in chosen.values():
        raise UsageError(
            "lora.targets names the output head: its rows learn already. Leave out --train-end-token, --train-tokens."
        )
    tables = require_vocabulary(model) if tokens else None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for name, base in chosen.items():
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        layer = layer_class(config).from_base(base, config, generator)
        _replace(model, name, layer)
        trained += layer.parts().values()
    return trained if tables is None else [*trained, learn_rows(model, tables, tokens)]


def adapts_head(model: nn.Module, config: LoraConfig) -> bool:
    """Whether `wrap` would put an adapter beside the output head."""
    known, head = _linear_layers(model), _head(model)
    return config.targets != ALL_LINEAR and any(
        known[name] is head for target in config.targets for name in meant(target, known)
    )


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by the name that they have in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def unwrap(model: nn.Module) -> None:
    """Take the adapter away; the model is what it was, its parameters frozen."""
    for name, part in _adapted(model).items():
        _replace(model, name, part.base)


def fuse(model: nn.Module) -> None:
    """Make the adapter part of the weights, in place. Raises UsageError where these are kept in 4 bits."""
    refuse_fusing(model)
    for name, part in _adapted(model).items():
        _replace(model, name, part.fuse())


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model answers as its base does."""
    parts = [part for part in _adapted(model).values() if part.enabled]
    for part in parts:
        part.enabled = False
    try:
        yield
    finally:
        for part in parts:
            part.enabled = True


def trainable_count(model: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def save_adapter(model: nn.Module, folder: Any, *, base_name: str, config: LoraConfig) -> None:
    """Write the adapter as PEFT does: adapter_config.json and adapter_model.safetensors, in one rename.

    The bytes depend on the weights, `base_name` and `config` alone. Raises ResourceError where it cannot be written.
    """
    adapted = layers(model)
    if not adapted:
        raise UsageError("the model has no adapter to save; wrap it first.")
    parts = {name: {key: part.detach() for key, part in layer.parts().items()} for name, layer in adapted.items()}
    write_adapter(
        folder,
        Adapter(config, parts, dict(saved_rows(model))),
        base_name=base_name,
        targets=_short_names(model, set(adapted)),
        transposed=any(layer.transposed for layer in adapted.values()),
    )


def load_adapter(model: nn.Module, folder: Any, *, trainable: bool = False) -> LoraConfig:
    """Put a PEFT LoRA adapter beside the model's layers, in place.

    Raises ModelError where the adapter holds more than data, does not fit the model or uses what weft cannot apply.
    """
    if layers(model):
        raise UsageError("the model has an adapter already; unwrap or fuse it before loading another.")
    known, tables = _linear_layers(model), vocabulary(model)
    room = Room({name: sizes(module) for name, module in known.items()})
    if tables is not None:
        room = Room(room.layers, tables.ending, tables.size, tables.tied)
    adapter = read_adapter(folder, room)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parts in adapter.layers.items():
        layer = layer_class(adapter.config)(known[name], adapter.config)
        for key, part in layer.parts().items():
            with torch.no_grad():
                part.copy_(parts[key])
            part.requires_grad_(trainable)
        _replace(model, name, layer)
    for tokens, rows in adapter.rows.values():
        assert tables is not None, "read_adapter refuses rows where there is no room for them"
        own = nn.Parameter(rows.to(tables.head[1].weight.device), requires_grad=trainable)  # type: ignore[arg-type]
        put_rows(model, tables, tokens, own)
    return adapter.config


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Every module that the adapter stands in for, by name; each knows its `base` and how to `fuse`."""
    return {**layers(model), **tables_with_rows(model)}


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that can carry an adapter, under the name it has without one."""
    adapted = layers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) and name.removesuffix(".base") not in adapted
    }


def _head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    return get() if callable(get) else None  # type: ignore[return-value]


def _choose(model: nn.Module, config: LoraConfig) -> dict[str, nn.Module]:
    """The target layers by name, in the model's order."""
    if layers(model):
        raise UsageError("the model has an adapter already; unwrap or fuse it before wrapping again.")
    known, head = _linear_layers(model), _head(model)
    if config.targets == ALL_LINEAR:
        chosen = {name: module for name, module in known.items() if module is not head}
        if not chosen:
            raise UsageError(f"a {type(model).__name__} has no linear layer that could carry an adapter.")
        return chosen
    chosen, unknown = {}, []
    for target in config.targets:
        hits = meant(target, known)
        chosen |= {name: known[name] for name in hits}
        if not hits:
            unknown.append(target)
    if unknown or not chosen:
        short = sorted({name.rsplit(".", 1)[-1] for name in known})
        near = [match for target in unknown for match in _near(target, known, short)]
        raise UsageError(
            f"lora.targets: {', '.join(map(repr, unknown)) or 'the empty list'} names no linear layer of this model. "
            + (f"Did you mean {', '.join(map(repr, near))}? " if near else "")
            + f"It has: {', '.join(short)}; or say {ALL_LINEAR!r}."
        )
    return {name: chosen[name] for name in known if name in chosen}


def _near(target: str, known: Collection[str], short: Sequence[str]) -> list[str]:
    """Real names near one that names no layer; for a letter or two, which difflib likens to nothing, those with it."""
    return (
        spellings(target, known)
        or difflib.get_close_matches(target, [*short, *known], n=2)
        or sorted((name for name in short if target in name), key=lambda name: not name.startswith(target))[:2]
    )


def _refuse_misfits(model: nn.Module, chosen: dict[str, nn.Module], rank: int) -> None:
    small = {name: min(sizes(module)) for name, module in chosen.items() if min(sizes(module)) < rank}
    if small:
        name = min(small, key=lambda key: small[key])
        raise UsageError(
            f"--lora-r is {rank}, above the size of {len(small)} target layers ({name}: {small[name]}); such an update "
            f"would be larger than the layer. Choose --lora-r {small[name]} or less, or fewer --lora-targets."
        )
    head = _head(model)
    inputs = getattr(model, "get_input_embeddings", lambda: None)()
    targeted = head is not None and any(module is head for module in chosen.values())
    if targeted and inputs is not None and head.weight is inputs.weight:  # type: ignore[union-attr]
        raise UsageError(
            "lora.targets names the output head, whose weight is also the input embedding of this model; fusing the "
            "adapter would change both. Leave it out."
        )


def _short_names(model: nn.Module, adapted: set[str]) -> list[str]:
    """Last parts of the names, as PEFT writes them, where they say the same as the full names; else those."""
    short = {name.rsplit(".", 1)[-1] for name in adapted}
    known = {*_linear_layers(model), *adapted}
    said = {name for name in known if any(name == part or name.endswith(f".{part}") for part in short)}
    return sorted(short if said == adapted else adapted)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
