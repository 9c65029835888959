"""LoRA in three doors: `wrap` (learn), the layer's forward (apply), `fuse` (make it part of the weights).

    y = base(x) + scale * (x Aᵀ) Bᵀ      A (r, in) random, B (out, r) zero at the start; float32; the base is frozen

Works on nn.Linear and on GPT-2's Conv1D (weight stored transposed). Names, initialisation and scaling are PEFT's
(huggingface/peft 0.21, `tuners/lora/layer.py`); the files are in `lora_files.py`. DoRA, biases and ranks per layer are
left out.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.errors import UsageError
from weft.models import kernels
from weft.models.lora_config import ALL_LINEAR, LoraConfig
from weft.models.lora_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter, write_adapter

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "LoraConfig",
    "LoraLinear",
    "disabled",
    "fuse",
    "layers",
    "load_adapter",
    "save_adapter",
    "trainable_count",
    "unwrap",
    "wrap",
]


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank update beside it."""

    def __init__(self, base: nn.Module, config: LoraConfig) -> None:
        super().__init__()
        weight = base.weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{type(base).__name__} has no weight matrix")
        self.base = base
        self.transposed = _is_conv1d(base)
        """Whether the base stores its weight as (in, out)."""
        out_features, in_features = reversed(weight.shape) if self.transposed else weight.shape
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.scale = config.scale
        self.dropout = config.dropout
        self.enabled = True
        self.training = base.training
        self.lora_A = nn.Parameter(torch.empty(config.r, in_features, dtype=torch.float32, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, config.r, dtype=torch.float32, device=weight.device))

    @classmethod
    def from_base(cls, base: nn.Module, config: LoraConfig, generator: torch.Generator) -> LoraLinear:
        """The layer with a fresh update that changes nothing yet. `generator` lives on the CPU."""
        layer = cls(base, config)
        start = torch.empty(layer.lora_A.shape)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            layer.lora_A.copy_(start)
        return layer

    @property
    def weight(self) -> Tensor:
        """The frozen weight: some models look at a layer's number format before they call it."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out), in the base's number format."""
        if not self.enabled:
            return self.base(x)
        if self._plain(x):
            flat = x.flatten(0, -2)
            args = self.weight, self.bias, self.lora_A, self.lora_B, self.scale
            return kernels.adapted_linear(flat, *args).view(*x.shape[:-1], -1)
        result = self.base(x)
        x = x.to(self.lora_A.dtype)
        if self.dropout and self.training:
            x = functional.dropout(x, self.dropout)
        update = functional.linear(functional.linear(x, self.lora_A), self.lora_B)
        # In place: a linear layer's backward pass does not look at its own output.
        return result.add_(update.to(result.dtype), alpha=self.scale)

    def _plain(self, x: Tensor) -> bool:
        """Whether this is a frozen nn.Linear, one number format, no dropout: then both products share a buffer."""
        return (
            type(self.base) is nn.Linear
            and x.dtype == self.weight.dtype
            and not self.weight.requires_grad
            and not (self.dropout and self.training)
            and not torch.is_autocast_enabled(x.device.type)
        )

    def delta(self) -> Tensor:
        """The update as a matrix in the base weight's own orientation, float32."""
        product = (self.lora_B @ self.lora_A) * self.scale
        return product.T if self.transposed else product

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The plain layer with the update added to its weight."""
        weight = self.weight
        weight.copy_((weight.float() + self.delta()).to(weight.dtype))
        return self.base


def wrap(model: nn.Module, config: LoraConfig, seed: int) -> list[nn.Parameter]:
    """Freeze `model` and put an adapter beside each target layer, in place; returns what is to be trained.

    The start depends on `seed` and each layer's name alone. Raises UsageError for targets that name no layer, a rank
    above a layer's size, a tied output head, and where the model has an adapter already.
    """
    chosen = _choose(model, config)
    _refuse_misfits(model, chosen, config.r)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for name, base in chosen.items():
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        layer = LoraLinear.from_base(base, config, generator)
        _replace(model, name, layer)
        trained += [layer.lora_A, layer.lora_B]
    return trained


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by the name that they have in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def unwrap(model: nn.Module) -> None:
    """Take the adapter away; the model is what it was, its parameters frozen."""
    for name, layer in layers(model).items():
        _replace(model, name, layer.base)


def fuse(model: nn.Module) -> None:
    """Make the adapter part of the weights, in place."""
    for name, layer in layers(model).items():
        _replace(model, name, layer.fuse())


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model answers as its base does."""
    adapted = [layer for layer in layers(model).values() if layer.enabled]
    for layer in adapted:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in adapted:
            layer.enabled = True


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
    tensors = {name: (layer.lora_A.detach(), layer.lora_B.detach()) for name, layer in adapted.items()}
    write_adapter(
        folder,
        tensors,
        config=config,
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
    known = _linear_layers(model)
    shapes = {name: _sizes(module) for name, module in known.items()}
    config, tensors = read_adapter(folder, shapes)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, (lora_a, lora_b) in tensors.items():
        layer = LoraLinear(known[name], config)
        with torch.no_grad():
            layer.lora_A.copy_(lora_a)
            layer.lora_B.copy_(lora_b)
        layer.requires_grad_(False)
        layer.lora_A.requires_grad_(trainable)
        layer.lora_B.requires_grad_(trainable)
        _replace(model, name, layer)
    return config


def _is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's layer. Where transformers was never imported, there is none."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and isinstance(module, library.Conv1D)


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that can carry an adapter, under the name it has without one."""
    adapted = layers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or _is_conv1d(module)) and name.removesuffix(".base") not in adapted
    }


def _sizes(module: nn.Module) -> tuple[int, int]:
    """(in, out)."""
    first, second = module.weight.shape  # type: ignore[union-attr]
    return (int(first), int(second)) if _is_conv1d(module) else (int(second), int(first))


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
        hits = {name: module for name, module in known.items() if _names(target, name)}
        chosen |= hits
        if not hits:
            unknown.append(target)
    if unknown or not chosen:
        short = sorted({name.rsplit(".", 1)[-1] for name in known})
        near = [match for target in unknown for match in difflib.get_close_matches(target, [*short, *known], n=2)]
        raise UsageError(
            f"lora.targets: {', '.join(map(repr, unknown)) or 'the empty list'} names no linear layer of this model. "
            + (f"Did you mean {', '.join(map(repr, near))}? " if near else "")
            + f"It has: {', '.join(short)}; or say {ALL_LINEAR!r}."
        )
    return {name: chosen[name] for name in known if name in chosen}


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}") or fnmatch.fnmatchcase(name, target)


def _refuse_misfits(model: nn.Module, chosen: dict[str, nn.Module], rank: int) -> None:
    small = {name: min(_sizes(module)) for name, module in chosen.items() if min(_sizes(module)) < rank}
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
