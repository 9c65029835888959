"""PEFT's adapter folder, both directions, without PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    base_model.model.NAME.lora_A.weight, .lora_B.weight           every adapted layer
    base_model.model.NAME.lora_magnitude_vector                   with `use_dora`
    base_model.model.NAME.token_adapter.trainable_tokens_delta    with `trainable_token_indices`: rows of a vocabulary

Written: the keys that PEFT 0.21 needs. Read: an allow-list; a key that names code, or a kind of adapter that weft
cannot apply, is refused by name. The tensors say which layers are adapted, not a pattern in the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.errors import ModelError, UsageError
from weft.models.facts import read_header
from weft.models.lora_config import ALL_LINEAR, LoraConfig
from weft.runs import explained, publish_folder

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_SUFFIXES = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_magnitude_vector": "lora_magnitude_vector",
    "rows": "token_adapter.trainable_tokens_delta",
}
"""Part of an adapter to the end of its tensor's name."""
_KEY = re.compile(rf"base_model\.model\.(?P<name>[A-Za-z0-9_.]+?)\.(?P<suffix>{'|'.join(_SUFFIXES.values())})")
_PART = {suffix: part for part, suffix in _SUFFIXES.items()}
_CODE = ("auto_mapping", "parent_library", "megatron_core", "megatron_config", "auto_map")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "megatron_core": ("megatron.core",),  # PEFT's default; without a megatron_config it does nothing
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # those that leave the base as it is
}
_FREE = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "fan_in_fan_out", "base_model_name_or_path",
    "task_type", "inference_mode", "peft_version", "revision", "exclude_modules", "layers_to_transform",
    "layers_pattern", "qalora_group_size", "ensure_weight_tying",
    "use_dora", "trainable_token_indices",
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """What an adapter's folder holds."""

    config: LoraConfig
    layers: Mapping[str, Mapping[str, Tensor]]
    """Layer name → `lora_A` (r, in), `lora_B` (out, r) and, with `dora`, `lora_magnitude_vector` (out,)."""
    rows: Mapping[str, tuple[tuple[int, ...], Tensor]] = field(default_factory=dict)
    """Name of a vocabulary's module → token ids and their vectors (K, W). At most one."""


@dataclass(frozen=True)
class Room:
    """What a base has place for."""

    layers: Mapping[str, tuple[int, int]]
    """Name → (in, out) of each linear layer."""
    table: str = ""
    """The module whose rows say tokens; empty where rows cannot be replaced."""
    table_size: tuple[int, int] = (0, 0)
    """(V, W) of that module."""
    tied: bool = False
    """Whether that module is the input embedding too."""


def write_adapter(
    folder: Path | str, adapter: Adapter, *, base_name: str, targets: list[str], transposed: bool
) -> None:
    """Write the folder whole. A base under the working folder is named from there."""
    from safetensors.torch import save

    folder, config = Path(folder), adapter.config
    written = {
        "base_model_name_or_path": _portable(base_name),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropped,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": {name: list(tokens) for name, (tokens, _) in adapter.rows.items()} or None,
        "use_dora": config.dora,
        "use_rslora": config.rslora,
    }
    parts = {name: dict(layer) for name, layer in adapter.layers.items()}
    parts |= {name: {"rows": rows} for name, (_, rows) in adapter.rows.items()}
    flat = {
        f"{_PREFIX}{name}.{_SUFFIXES[part]}": tensor.to("cpu", torch.float32).contiguous()
        for name, layer in parts.items()
        for part, tensor in layer.items()
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with explained(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        (temporary / ADAPTER_WEIGHTS).write_bytes(save(flat, metadata={"format": "pt"}))
    publish_folder(temporary, folder)


def read_adapter(folder: Path | str, room: Room) -> Adapter:
    """The adapter in `folder`, for a base with this `room`.

    Raises UsageError where there is no adapter, ModelError naming all that is wrong with it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UsageError(f"{folder}: not an adapter (no {ADAPTER_CONFIG} in it). A run's adapter lies in RUN/adapter.")
    raw = _read_json(folder / ADAPTER_CONFIG)
    config, problems = _read_config(folder, raw)
    tokens, unfit = _read_tokens(raw.get("trainable_token_indices"), room)
    problems += unfit
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        problems.append(f"there is no {ADAPTER_WEIGHTS} (weft reads no pickles)")
        raise _refused(folder, problems)
    try:
        header = read_header(weights)
    except ModelError as error:
        raise _refused(folder, [*problems, str(error)]) from None
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, facts in header.items():
        if match := _KEY.fullmatch(key):
            shapes.setdefault(match["name"], {})[_PART[match["suffix"]]] = facts.shape
        else:
            problems.append(f"tensor {key} is not part of a LoRA adapter that weft can apply")
    problems += _misfits(shapes, room, config, tokens)
    if problems:
        raise _refused(folder, problems)
    flat = load_file(weights)
    bad = [key for key, tensor in flat.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise _refused(folder, [f"{bad[0]} holds numbers that are not finite"])
    parts = {
        name: {part: flat[f"{_PREFIX}{name}.{_SUFFIXES[part]}"].float() for part in layer}
        for name, layer in shapes.items()
    }
    rows = {room.table: (tokens, parts[room.table].pop("rows"))} if tokens else {}
    parts = {name: layer for name, layer in parts.items() if layer}
    if not config.targets:
        config = config.model_copy(update={"targets": tuple(parts)})
    return Adapter(config, parts, rows)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"holds a {type(raw).__name__}, expected an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error}).") from None
    return raw


def _read_config(folder: Path, raw: Mapping[str, Any]) -> tuple[LoraConfig, list[str]]:
    problems = [_complaint(key, value) for key, value in raw.items() if not _allowed(key, value)]
    if raw.get("peft_type") is None:
        problems.append("`peft_type` is missing, expected LORA")
    targets = raw.get("target_modules")
    named = tuple(map(str, targets)) if isinstance(targets, list) else ALL_LINEAR if targets == ALL_LINEAR else ()
    try:
        config = LoraConfig(
            r=raw.get("r", 8),
            alpha=raw.get("lora_alpha", 8),
            dropout=raw.get("lora_dropout", 0.0),
            targets=named,
            rslora=raw.get("use_rslora") or False,
            dora=raw.get("use_dora") or False,
        )
    except ValueError as error:
        raise _refused(folder, [*problems, f"its rank, alpha or dropout is impossible ({error})"]) from None
    return config, problems


def _allowed(key: str, value: Any) -> bool:
    return key in _FREE or not value or any(value is known or value == known for known in _NEUTRAL.get(key, ()))


def _complaint(key: str, value: Any) -> str:
    if key in _CODE:
        return f"`{key}` names code ({value!r}); weft runs no code of an adapter"
    return f"`{key}` is {json.dumps(value)[:60]}, a kind of adapter that weft cannot apply"


def _read_tokens(given: Any, room: Room) -> tuple[tuple[int, ...], list[str]]:
    """The tokens of `trainable_token_indices`, and why they cannot be used. PEFT's bare list means the inputs."""
    if not given:
        return (), []
    listed = next(iter(given.values())) if isinstance(given, dict) and len(given) == 1 else given
    named = next(iter(given)) if isinstance(given, dict) else room.table if room.tied else "the input embedding"
    whole = isinstance(listed, list) and all(type(token) is int and 0 <= token < room.table_size[0] for token in listed)
    if not whole or len(set(listed)) != len(listed):
        return (), [
            f"`trainable_token_indices` is {json.dumps(given)[:60]}, expected token ids of this base, each once"
        ]
    if room.table != named and not room.table.endswith(f".{named}"):
        place = room.table or "none"
        return (), [f"`trainable_token_indices` names {named!r}; rows that weft can replace in this base: {place}"]
    return tuple(listed), []


def _misfits(
    found: Mapping[str, Mapping[str, tuple[int, ...]]], room: Room, config: LoraConfig, tokens: tuple[int, ...]
) -> list[str]:
    if not any("rows" not in parts for parts in found.values()):
        return [f"{ADAPTER_WEIGHTS} holds no LoRA tensors"]
    places = {*room.layers, room.table} if tokens else set(room.layers)
    strangers = [name for name in found if name not in places]
    if strangers:
        return [f"the base has no layer {', '.join(strangers[:3])}; the adapter belongs to another model"]
    problems = []
    if tokens and room.table not in found:
        problems.append(f"`trainable_token_indices` names {len(tokens)} tokens of {room.table} without their rows")
    for name, shapes in found.items():
        expected = _expected(name, room, config, tokens, rows="rows" in shapes)
        if dict(shapes) != expected:
            problems.append(f"{name} has shapes {dict(shapes)}, expected {expected} for this base and r = {config.r}")
    return problems[:5]


def _expected(
    name: str, room: Room, config: LoraConfig, tokens: tuple[int, ...], *, rows: bool
) -> dict[str, tuple[int, ...]]:
    """The shapes that an adapter's parts at `name` must have."""
    if rows and name == room.table:
        return {"rows": (len(tokens), room.table_size[1])}
    inputs, outputs = room.layers[name]
    magnitude: dict[str, tuple[int, ...]] = {"lora_magnitude_vector": (outputs,)} if config.dora else {}
    return {"lora_A": (config.r, inputs), "lora_B": (outputs, config.r), **magnitude}


def _refused(folder: Path, problems: list[str]) -> ModelError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return ModelError(f"{folder}: this adapter cannot be used:\n{listed}")


def _portable(base_name: str) -> str:
    path = Path(base_name)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return base_name
