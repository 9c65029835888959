"""An adapter as the serving pass applies it: per product of the model one small product beside it.

The pass joins the layers that read the same states (query, key and value; gate and up) into one product, so an adapter
has parts there. Matrices lie transposed (in, out), in the number format of the pass, the scale multiplied into the
second one. DoRA's lengths are computed once, when the adapter is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from weft.errors import ModelError
from weft.models.lora_files import Adapter
from weft.models.lora_layers import MAGNITUDE

Key = tuple[int, str]
"""Layer and product; the output head is (-1, "head")."""
HEAD: Key = (-1, "head")
FEW = 64
"""Below so many rows a call costs more than multiplying zeros: all layers of a product in one."""


@dataclass(frozen=True)
class Product:
    """One product of the pass: y = x W + b."""

    weight: Tensor
    """(in, out)."""
    bias: Tensor | None
    bounds: tuple[tuple[int, int], ...]
    """First and past-last column of each layer that is part of it."""

    @property
    def inputs(self) -> int:
        return self.weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """x (T, in) → (T, out)."""
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True)
class Part:
    """The update of one layer."""

    down: Tensor
    """(in, r)."""
    up: Tensor
    """(r, out)."""
    ratio: Tensor | None
    """(out,) float32: DoRA's factor on each output."""


@dataclass(frozen=True)
class Update:
    """The updates of one product's layers, by their place in `Product.bounds`."""

    down: Tensor
    """(in, parts · r): all first matrices."""
    up: Tensor
    """(parts · r, out): all second matrices, each at its layer's columns, zeros elsewhere."""
    parts: Mapping[int, Part]
    """Views of both."""

    def add(self, x: Tensor, y: Tensor, product: Product) -> None:
        """Turn y = x W + b (T, out) into what the adapted layers give, in place."""
        inner = torch.mm(x, self.down)
        if len(x) < FEW:
            y.addmm_(inner, self.up)
        for number, (place, part) in enumerate(self.parts.items()):
            start, stop = product.bounds[place]
            own, rank = y[:, start:stop], part.up.shape[0]
            if len(x) >= FEW:
                own.addmm_(inner[:, number * rank : (number + 1) * rank], part.up)
            if part.ratio is not None:
                bias = None if product.bias is None else product.bias[start:stop]
                turned = (own if bias is None else own - bias) * part.ratio
                own.copy_(turned if bias is None else turned + bias)


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """One adapter, ready."""

    identity: str
    rank: int
    dora: bool
    updates: Mapping[Key, Update]
    rows: Tensor | None = None
    """(K, W) the vectors of tokens that are the adapter's own."""
    tokens: Tensor | None = None
    """(K,) which tokens these are."""
    slots: np.ndarray | None = None
    """(V,) of each token its place among them, or -1."""
    tied: bool = False
    """Whether those vectors are the inputs' too."""
    size: int = field(default=0)
    """Bytes."""


def serve(
    identity: str,
    adapter: Adapter,
    places: Mapping[str, tuple[Key, int]],
    products: Mapping[Key, Product],
    dtype: torch.dtype,
    *,
    tied: bool,
    vocabulary: int,
) -> ServedAdapter:
    """`adapter` for a pass made of `products`; `places`: layer's name → its product and its place there.

    Raises ModelError where its numbers are too large for `dtype`.
    """
    grouped: dict[Key, dict[int, Part]] = {}
    for name, tensors in adapter.layers.items():
        key, place = places[name]
        device = products[key].weight.device
        part = _part(products[key], place, {k: v.to(device) for k, v in tensors.items()}, adapter.config.scale, dtype)
        if not all(bool(torch.isfinite(x).all()) for x in (part.down, part.up, part.ratio) if x is not None):
            raise ModelError(f"adapter {identity[:12]}…: {name} holds numbers too large to be served as {dtype}.")
        grouped.setdefault(key, {})[place] = part
    updates = {}
    for key, parts in grouped.items():
        updates[key] = _joined(dict(sorted(parts.items())), products[key])
    tokens, rows = next(iter(adapter.rows.values()), ((), None))
    told = slots = None
    if rows is not None:
        rows = rows.to(next(iter(products.values())).weight.device, dtype)
        told = torch.tensor(tokens, device=rows.device)
        slots = np.full(vocabulary, -1, dtype=np.int64)
        slots[list(tokens)] = np.arange(len(tokens))
    size = sum(_bytes(update) for update in updates.values()) + (0 if rows is None else rows.nbytes)
    return ServedAdapter(identity, adapter.config.r, adapter.config.dora, updates, rows, told, slots, tied, size)


def _part(product: Product, place: int, tensors: Mapping[str, Tensor], scale: float, dtype: torch.dtype) -> Part:
    down, up = tensors["lora_A"].T, tensors["lora_B"].T * scale
    ratio = None
    if MAGNITUDE in tensors:
        start, stop = product.bounds[place]
        whole = product.weight[:, start:stop].float() + down @ up
        ratio = tensors[MAGNITUDE] / whole.norm(dim=0)
    return Part(down.to(dtype).contiguous(), up.to(dtype).contiguous(), ratio)


def _joined(parts: Mapping[int, Part], product: Product) -> Update:
    down = torch.cat([part.down for part in parts.values()], 1)
    rank = next(iter(parts.values())).up.shape[0]
    up = down.new_zeros(down.shape[1], product.bounds[-1][1])
    views = {}
    for number, (place, part) in enumerate(parts.items()):
        inner, outer = slice(number * rank, (number + 1) * rank), slice(*product.bounds[place])
        up[inner, outer] = part.up
        views[place] = Part(down[:, inner], up[inner, outer], part.ratio)
    return Update(down, up, views)


def _bytes(update: Update) -> int:
    ratios = sum(part.ratio.nbytes for part in update.parts.values() if part.ratio is not None)
    return update.down.nbytes + update.up.nbytes + ratios
