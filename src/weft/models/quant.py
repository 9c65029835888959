"""A frozen base in 4 bits: what QLoRA's adapter learns beside (Dettmers et al. 2023, arXiv:2305.14314, section 3).

The inner linear layers become NormalFloat4 numbers in blocks of 64, whose scales are 8-bit numbers themselves: 4.13
bits a weight. Products are made in the format of the states. Embeddings, norms, biases and the output head stay as they
are. Packing and unpacking are bitsandbytes' business (the extra `quant`). Nothing here merges an adapter into such
weights or writes them to a file.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.errors import MissingExtra, UsageError

Quantize = Literal["none", "nf4"]

BLOCK = 64
"""Weights that share a scale."""
_LIBRARY = "bitsandbytes"


def require_library() -> None:
    """Raise MissingExtra where bitsandbytes is not installed."""
    if importlib.util.find_spec(_LIBRARY) is None:
        raise MissingExtra("a base in 4 bits (--quantize nf4)", "quant")


class FourBitLinear(nn.Module):
    """A frozen linear layer whose weight is kept in 4 bits. Made from an nn.Linear or GPT-2's Conv1D."""

    def __init__(self, base: nn.Module, *, transposed: bool = False) -> None:
        """`transposed`: the base stores its weight as (in, out)."""
        super().__init__()
        functional = _library().functional
        weight: Tensor = base.weight.detach()  # type: ignore[assignment,operator]
        weight = (weight.T if transposed else weight).contiguous()
        self.transposed = transposed
        self.out_features, self.in_features = (int(size) for size in weight.shape)
        # As one long row: bitsandbytes 0.50 unpacks rows of other than a multiple of 64 wrongly on CPUs with AVX-512.
        options = {"quant_type": "nf4", "blocksize": BLOCK, "compress_statistics": True}
        packed, self._state = functional.quantize_4bit(weight.flatten(), **options)
        self._state.dtype = torch.float32
        self.packed: Tensor
        self.register_buffer("packed", packed, persistent=False)
        self.bias = base.bias
        self.training = base.training

    @property
    def weight(self) -> Tensor:
        """The weight in the base's orientation, float32; made anew at each call."""
        return self.unpacked().T if self.transposed else self.unpacked()

    def unpacked(self) -> Tensor:
        """The weight as (out, in), float32."""
        whole: Tensor = _library().functional.dequantize_4bit(self.packed, self._state)
        return whole.view(self.out_features, self.in_features)

    @property
    def held_bytes(self) -> int:
        """What the weight takes, its scales included."""
        nested = self._state.state2
        return sum(part.nbytes for part in (self.packed, self._state.absmax, nested.absmax, nested.code))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out), in x's number format or that of autocast."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product = _Product.apply(x, self)
        return product if bias is None else product + bias  # type: ignore[return-value,operator]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FourBitLinear:
        super()._apply(fn, recurse)
        self._state.to(self.packed.device)
        return self


class _Product(torch.autograd.Function):
    """x Wᵀ, where W is unpacked for each pass and kept for none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.unpacked().to(x.dtype).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] @ ctx.layer.unpacked().to(grads[0].dtype), None


def quantize(model: nn.Module) -> int:
    """Keep the inner linear layers of `model` in 4 bits from now on, in place; returns how many.

    One layer after the other, so that no second copy of the whole is held. Raises MissingExtra without bitsandbytes,
    UsageError where the model has no such layer.
    """
    require_library()
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    inner = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and module is not head
    ]
    if not inner:
        raise UsageError(f"--quantize nf4: a {type(model).__name__} has no inner linear layer to keep in 4 bits.")
    for name in inner:
        parent, _, child = name.rpartition(".")
        module = model.get_submodule(name)
        setattr(model.get_submodule(parent), child, FourBitLinear(module, transposed=is_conv1d(module)))
    return len(inner)


def is_quantized(model: nn.Module) -> bool:
    """Whether some layer of `model` is kept in 4 bits."""
    return any(isinstance(module, FourBitLinear) for module in model.modules())


def refuse_full(model: nn.Module) -> None:
    """Raise UsageError where `model` is kept in 4 bits: such weights take no gradient."""
    if is_quantized(model):
        raise UsageError(
            "--full trains every weight, and weights kept in 4 bits cannot learn. Leave out --full to train an adapter "
            "beside them, or leave out --quantize."
        )


def refuse_fusing(model: nn.Module) -> None:
    """Raise UsageError where `model` is kept in 4 bits: rounding again would change what the adapter was made for."""
    if is_quantized(model):
        raise UsageError(
            "the adapter lies beside weights in 4 bits. Merged into them, the sum would be rounded to 16 levels again "
            "and answer otherwise. Load the base in full precision, load the adapter onto it, and merge there."
        )


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's layer. Where transformers was never imported, there is none."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and isinstance(module, library.Conv1D)


def _library() -> Any:
    """bitsandbytes. On its first import it would fetch code from the hub where the package `kernels` is installed."""
    if _LIBRARY not in sys.modules:
        logging.getLogger(_LIBRARY).setLevel(logging.ERROR)  # its advice to install that package
        absent = "kernels" not in sys.modules
        if absent:
            sys.modules["kernels"] = None  # type: ignore[assignment]
        try:
            importlib.import_module(_LIBRARY)
        finally:
            if absent:
                del sys.modules["kernels"]
    return sys.modules[_LIBRARY]
