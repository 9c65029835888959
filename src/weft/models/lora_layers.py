"""One layer with its update: LoRA, and DoRA on top of it.

    LoRA   y = base(x) + scale (x Aᵀ) Bᵀ         A (r, in) random, B (out, r) zero at the start
    DoRA   y = m / ‖W + scale B A‖ · (x Wᵀ + scale (x Aᵀ) Bᵀ) + bias     m (out,): the rows' lengths at the start

A, B and m are float32; the base is frozen. Works on nn.Linear, on GPT-2's Conv1D (weight stored transposed) and on
either in 4 bits (`quant.py`). Names, initialisation and scaling are PEFT's (huggingface/peft 0.21,
`tuners/lora/layer.py` and `dora.py`). The layer knows no model and no file: that is `lora.py` and `lora_files.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.models import kernels
from weft.models.lora_config import LoraConfig
from weft.models.quant import FourBitLinear, is_conv1d, refuse_fusing

MAGNITUDE = "lora_magnitude_vector"


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank update beside it."""

    trained = ("lora_A", "lora_B")
    """The attributes that learn."""

    def __init__(self, base: nn.Module, config: LoraConfig) -> None:
        super().__init__()
        weight = base.weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{type(base).__name__} has no weight matrix")
        self.base = base
        self.transposed = stores_transposed(base)
        """Whether the base stores its weight as (in, out)."""
        out_features, in_features = reversed(weight.shape) if self.transposed else weight.shape
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.scale = config.scale
        self.dropout = config.dropped
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

    def parts(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: getattr(self, name) for name in self.trained}

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out), in the base's number format."""
        return self.adapted(x) if self.enabled else self.base(x)

    def adapted(self, x: Tensor) -> Tensor:
        """`forward` with the update."""
        if self._plain(x):
            return self._both(x, self.bias)
        # In place: a linear layer's backward pass does not look at its own output.
        result = self.base(x)
        return result.add_(self._update(self._dropped(x)).to(result.dtype), alpha=self.scale)

    def _plain(self, x: Tensor) -> bool:
        """Whether this is a frozen nn.Linear in one number format: then both products share a buffer."""
        return (
            isinstance(self.base, nn.Linear)
            and x.dtype == self.weight.dtype
            and not self.weight.requires_grad
            and not torch.is_autocast_enabled(x.device.type)
        )

    @property
    def _drops(self) -> bool:
        return bool(self.dropout and self.training)

    def _both(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias + scale (x Aᵀ) Bᵀ in one buffer."""
        flat, scale, kept = x.flatten(0, -2), self.scale, None
        if self._drops:
            kept = kernels.kept_at_random(flat, self.dropout)
            scale /= 1 - self.dropout
        product = kernels.adapted_linear(flat, self.weight, bias, self.lora_A, self.lora_B, scale, kept)
        return product.view(*x.shape[:-1], -1)

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self._drops else x

    def _update(self, x: Tensor) -> Tensor:
        """(x Aᵀ) Bᵀ."""
        return functional.linear(functional.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B)

    def delta(self) -> Tensor:
        """The low-rank product as a matrix in the base weight's own orientation, float32."""
        product = (self.lora_B @ self.lora_A) * self.scale
        return product.T if self.transposed else product

    def merged(self) -> Tensor:
        """The weight with the update in it, in the base weight's own orientation, float32."""
        return self.weight.float() + self.delta()

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The plain layer with the update in its weight. Raises UsageError where that is kept in 4 bits."""
        refuse_fusing(self)
        self.weight.copy_(self.merged().to(self.weight.dtype))
        return self.base


class DoraLinear(LoraLinear):
    """A frozen linear layer whose rows learn direction (by the low-rank update) and length apart.

    Liu et al. 2024, arXiv:2402.09353. As in its section 4.3, no gradient flows through the norm.
    """

    trained = (*LoraLinear.trained, MAGNITUDE)

    def __init__(self, base: nn.Module, config: LoraConfig) -> None:
        super().__init__(base, config)
        self.lora_magnitude_vector = nn.Parameter(self._lengths(self.weight.detach().float()))

    def adapted(self, x: Tensor) -> Tensor:
        ratio = self._ratio()
        if self._plain(x) and not self._drops:
            return self._lengthened(self._both(x, None), ratio)
        result = self.base(x)
        dropped = self._dropped(x)
        # Without dropout the base's product is at hand; with it, PEFT turns the lengths on the dropped inputs alone.
        product = self._product(dropped) if self._drops else result if self.bias is None else result - self.bias
        change = (ratio - 1) * product + ratio * self.scale * self._update(dropped)
        return result + change.to(result.dtype)

    def _product(self, x: Tensor) -> Tensor:
        """x Wᵀ."""
        return functional.linear(x, self.weight.T if self.transposed else self.weight)

    def _lengthened(self, product: Tensor, ratio: Tensor) -> Tensor:
        result = (product * ratio).to(product.dtype)
        return result if self.bias is None else result + self.bias

    def _ratio(self) -> Tensor:
        """Each row's length over that of the low-rank sum, (out,) float32."""
        with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
            lengths = self._lengths(super().merged())
        return self.lora_magnitude_vector / lengths

    def _lengths(self, weight: Tensor) -> Tensor:
        return weight.norm(dim=0 if self.transposed else 1)

    def merged(self) -> Tensor:
        ratio = self._ratio()
        return super().merged() * (ratio if self.transposed else ratio[:, None])


def layer_class(config: LoraConfig) -> type[LoraLinear]:
    """The kind of layer that `config` asks for."""
    return DoraLinear if config.dora else LoraLinear


def is_linear(module: nn.Module) -> bool:
    """Whether this is a layer that can carry an update."""
    return isinstance(module, nn.Linear | FourBitLinear) or is_conv1d(module)


def stores_transposed(module: nn.Module) -> bool:
    """Whether this layer's weight is (in, out)."""
    return module.transposed if isinstance(module, FourBitLinear) else is_conv1d(module)


def sizes(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a layer that can carry an update."""
    if isinstance(module, FourBitLinear):
        return module.in_features, module.out_features
    first, second = module.weight.shape  # type: ignore[union-attr]
    return (int(first), int(second)) if is_conv1d(module) else (int(second), int(first))
