"""What a peer may be set to, and which settings are tried. None of them changes what is learned beyond rounding.

A peer in a bf16 table may also stay in fp32 where that is faster. bf16 weights are not tried for full fine-tuning:
updates of 1e-4 vanish in their eight bits, so it would be another training.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarks.peers.cell import Cell


@dataclass(frozen=True)
class Setting:
    """How a peer does its arithmetic. The default is what it does when told nothing but the precision fp32."""

    numbers: Literal["fp32", "bf16 weights", "bf16 autocast"] = "fp32"
    onednn: bool = False
    """fp32 products through oneDNN (`torch.backends.mkldnn.matmul.fp32_precision = "bf16"`)."""
    allocator: bool = False
    """Freed memory is kept by the process, not given back to the system after each large tensor (glibc)."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    batching: Literal["padded", "padding-free", "packed"] = "padded"
    compiled: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        words = [
            self.numbers,
            "oneDNN" if self.onednn else "",
            "allocator" if self.allocator else "",
            "eager attention" if self.attention == "eager" else "",
            self.batching if self.batching != "padded" else "",
            "compile" if self.compiled else "",
        ]
        return " + ".join(word for word in words if word)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before the process starts."""
        if not self.allocator:
            return {}
        return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}


def first(cell: Cell) -> list[Setting]:
    """The arithmetic routes; the default comes first, and is the truth that losses and gradients are compared with."""
    routes = [Setting(), Setting(onednn=True)]
    if cell.precision == "bf16":
        routes.append(Setting("bf16 autocast"))
        if cell.adapt != "full":
            routes.append(Setting("bf16 weights"))
    return routes


def further(best: Setting, peer: str, cell: Cell, *, compiling: bool = True) -> list[dict[str, Any]]:
    """Changes to try one after the other on the best so far; `compiling`: torch.compile too, where it can."""
    changes: list[dict[str, Any]] = [] if best.onednn else [{"onednn": True}]
    changes += [{"allocator": True}, {"attention": "eager"}]
    if cell.method == "sft":
        changes.append({"batching": "padding-free"})
        changes += [{"batching": "packed"}] if peer == "trl" else []
    if compiling and any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        changes.append({"compiled": True})
    return changes


def changed(setting: Setting, change: dict[str, Any]) -> Setting:
    return replace(setting, **change)
