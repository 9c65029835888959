"""PEFT's adapter folder, both directions, without PEFT: `adapter_config.json` and `adapter_model.safetensors`.

Written: the keys that PEFT 0.21 needs, tensors as `base_model.model.NAME.lora_A.weight`. Read: an allow-list; a key
that names code, or a kind of adapter that weft cannot apply, is refused by name. The tensors say which layers are
adapted, not a pattern in the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
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

_KEY = re.compile(r"base_model\.model\.(?P<name>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
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
}  # fmt: skip


def write_adapter(
    folder: Path | str,
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    *,
    config: LoraConfig,
    base_name: str,
    targets: list[str],
    transposed: bool,
) -> None:
    """Write the folder whole. `tensors`: layer name → (A, B). A base under the working folder is named from there."""
    from safetensors.torch import save

    folder = Path(folder)
    written = {
        "base_model_name_or_path": _portable(base_name),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": config.rslora,
    }
    flat = {
        f"base_model.model.{name}.lora_{side}.weight": tensor.to("cpu", torch.float32).contiguous()
        for name, pair in tensors.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with explained(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        (temporary / ADAPTER_WEIGHTS).write_bytes(save(flat, metadata={"format": "pt"}))
    publish_folder(temporary, folder)


def read_adapter(
    folder: Path | str, shapes: Mapping[str, tuple[int, int]]
) -> tuple[LoraConfig, dict[str, tuple[Tensor, Tensor]]]:
    """The adapter's settings and its (A, B) by layer name. `shapes`: the base's layers, name → (in, out).

    Raises UsageError where there is no adapter, ModelError naming all that is wrong with it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UsageError(f"{folder}: not an adapter (no {ADAPTER_CONFIG} in it). A run's adapter lies in RUN/adapter.")
    config, problems = _read_config(folder / ADAPTER_CONFIG)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        problems.append(f"there is no {ADAPTER_WEIGHTS} (weft reads no pickles)")
        raise _refused(folder, problems)
    try:
        header = read_header(weights)
    except ModelError as error:
        raise _refused(folder, [*problems, str(error)]) from None
    names: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, facts in header.items():
        if match := _KEY.fullmatch(key):
            names.setdefault(match["name"], {})[match["side"]] = facts.shape
        else:
            problems.append(f"tensor {key} is not part of a plain LoRA adapter")
    problems += _misfits(names, shapes, config.r)
    if problems:
        raise _refused(folder, problems)
    flat = load_file(weights)
    bad = [key for key, tensor in flat.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise _refused(folder, [f"{bad[0]} holds numbers that are not finite"])
    pair = {name: tuple(flat[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB") for name in names}
    if not config.targets:
        config = config.model_copy(update={"targets": tuple(names)})
    return config, pair  # type: ignore[return-value]


def _read_config(path: Path) -> tuple[LoraConfig, list[str]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"holds a {type(raw).__name__}, expected an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error}).") from None
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
            rslora=raw.get("use_rslora", False),
        )
    except ValueError as error:
        raise _refused(path.parent, [*problems, f"its rank, alpha or dropout is impossible ({error})"]) from None
    return config, problems


def _allowed(key: str, value: Any) -> bool:
    return key in _FREE or not value or any(value is known or value == known for known in _NEUTRAL.get(key, ()))


def _complaint(key: str, value: Any) -> str:
    if key in _CODE:
        return f"`{key}` names code ({value!r}); weft runs no code of an adapter"
    return f"`{key}` is {json.dumps(value)[:60]}, a kind of adapter that weft cannot apply"


def _misfits(
    names: Mapping[str, Mapping[str, tuple[int, ...]]], shapes: Mapping[str, tuple[int, int]], rank: int
) -> list[str]:
    if not names:
        return [f"{ADAPTER_WEIGHTS} holds no LoRA tensors"]
    strangers = [name for name in names if name not in shapes]
    if strangers:
        return [f"the base has no layer {', '.join(strangers[:3])}; the adapter belongs to another model"]
    problems = []
    for name, sides in names.items():
        inputs, outputs = shapes[name]
        expected = {"A": (rank, inputs), "B": (outputs, rank)}
        if dict(sides) != expected:
            problems.append(f"{name} has shapes {dict(sides)}, expected {expected} for this base and r = {rank}")
    return problems[:5]


def _refused(folder: Path, problems: list[str]) -> ModelError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return ModelError(f"{folder}: this adapter cannot be used:\n{listed}")


def _portable(base_name: str) -> str:
    path = Path(base_name)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return base_name
