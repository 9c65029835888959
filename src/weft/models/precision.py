"""Which arithmetic this machine's matrix products use, decided by a numeric probe before any training.

oneDNN's route for float32 products is about twice as fast as the default on many processors and exact to float32
there; on processors with matrix tiles (AMX) the same switch rounds to bfloat16. So the switch is tried on a known
product and kept only where the error stays that of float32. Decided by error alone, never by timing: the same machine
always computes the same bytes. Who knows better says so with the variable WEFT_FLOAT32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from weft.models import float32_route, product_cache
from weft.models.decoder import Decoder

if TYPE_CHECKING:
    from weft.models.load import Base

TOLERANCE = 5e-6
"""Largest relative error of a 512-long float32 product; bfloat16 rounding gives about 2e-3."""


def settle() -> str:
    """Set the fastest exact float32 route of the CPU, or that of WEFT_FLOAT32; its name for the run's record.

    Raises UsageError where the variable names no route.
    """
    wanted = float32_route.asked()
    product_cache.bound()
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if wanted == "default":
        matmul.fp32_precision = "ieee"
        return "float32, default route, as asked"
    matmul.fp32_precision = "bf16"
    error = _relative_error()
    if wanted == "onednn":
        return f"float32, oneDNN route, as asked{'' if error <= TOLERANCE else f' (it rounds: error {error:.0e})'}"
    if error <= TOLERANCE:
        return "float32, oneDNN route"
    matmul.fp32_precision = before
    return "float32, default route"


def for_training(device: torch.device) -> str:
    """`bfloat16` where the device multiplies such numbers in hardware, else `float32`. Never a matter of timing."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    tells = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private names: absent ones mean no
    return "bfloat16" if any(getattr(torch.cpu, name, lambda: False)() for name in tells) else "float32"


def for_answering(base: Base) -> str:
    """`bfloat16` for a base that was stored so, where the device multiplies such numbers itself; else `float32`."""
    return for_training(base.device) if base.stored == "BF16" and isinstance(base.model, Decoder) else "float32"


@contextlib.contextmanager
def frozen_as(model: nn.Module, name: str) -> Iterator[None]:
    """Inside, frozen matrices and biases of a `Decoder` are held as `name`; afterwards they are as before, to the bit.

    Where each value of a matrix fits the narrower format (weights that were stored so), no second copy is kept. Other
    models convert within their forward pass (`numbers`).
    """
    dtype = getattr(torch, name)
    named = model.named_parameters() if isinstance(model, Decoder) else ()
    # Norms stay: they compute in float32 anyway.
    frozen = [p for name, p in named if not p.requires_grad and (p.ndim > 1 or name.endswith("bias"))]
    narrowed = [(p, p.dtype, p.data) for p in frozen if p.dtype != dtype]
    for number, (parameter, before, wide) in enumerate(narrowed):
        parameter.data = wide.to(dtype)
        if torch.equal(parameter.data.to(before), wide):
            narrowed[number] = (parameter, before, parameter.data)
    try:
        yield
    finally:
        for parameter, before, kept in narrowed:
            parameter.data = kept.to(before)


def numbers(model: nn.Module, name: str) -> torch.autocast:
    """Around a forward pass: products are made as `name`, except where the weights are held so already."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    held = any(matrix.dtype == torch.bfloat16 for matrix in matrices)  # what learns beside them is float32
    return torch.autocast(matrices[0].device.type, torch.bfloat16, enabled=name == "bfloat16" and not held)


def _relative_error() -> float:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())
