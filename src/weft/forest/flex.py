"""The forest's attention on a GPU: one fused kernel under a mask of blocks, by torch's FlexAttention.

The parts of `attention.py` are many small products, and a GPU must be told to start each. Here a layer is one call.
Nodes lie depth first, so the tokens that see a key are one stretch of places: from the key to the end of its node's
subtree. That is the whole mask, two numbers per token. Blocks in which nothing is seen are skipped, and where all is
seen no mask is looked at (Dong et al. 2024, arXiv:2412.05496). Same sums as the parts, in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from weft.forest.build import Forest

BLOCK = 128
"""Queries and keys of one block: what torch's kernels are tuned for."""
FEWEST = 2
"""Blocks at least, for torch compiles lengths of one block apart from all others."""
NARROWEST = 16
"""Width of the narrowest heads that Triton multiplies."""
VARIANTS = 64
"""Most compilations in one process: a few per model, by its heads, its format and which states need gradients."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@lru_cache
def usable(device: torch.device, width: int) -> bool:
    """Whether heads of this width are computed here: on GPUs that Triton and torch's kernels are made for."""
    if device.type != "cuda" or width < NARROWEST or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def mask(forest: Forest, asking: np.ndarray, device: torch.device, block: int = BLOCK) -> BlockMask:
    """Who sees whom for the queries at the flat places `asking`, which must rise: (1, 1, S, S), S whole blocks.

    Queries and keys are padded to one length S, so that all layers of a forest run the same kernel; padding sees
    nothing and is not seen. Work and memory are those of S and of the number of blocks, (S / block)², not of S².
    """
    size = max(FEWEST, -(-len(forest.ids) // block)) * block
    places = np.full(size, -1, np.int32)
    places[: len(asking)] = asking
    ends = np.zeros(size, np.int32)
    for node in forest.nodes:
        ends[node.start : node.start + node.length] = node.end
    pairs = _pairs(asking, ends, size // block, block)
    full = pairs == block * block
    return BlockMask.from_kv_blocks(
        *_listed((pairs > 0) & ~full, device),
        *_listed(full, device),
        BLOCK_SIZE=block,
        mask_mod=_rule(torch.from_numpy(places).to(device), torch.from_numpy(ends).to(device)),
        seq_lengths=(size, size),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, seen: BlockMask) -> Tensor:
    """Attention of the mask's queries: q (Q, H, D); k, v (T, K, D) with K dividing H → (Q, H, D).

    Scores are scaled by 1 / √D. Compiled on a GPU, seconds at the first call. On a CPU as torch defines it, which keeps
    all S² scores and refuses gradients (torch 2.13): for tests.
    """
    size = seen.shape[-1]
    laid = (_laid(x, size) for x in (q, k, v))
    with torch._dynamo.config.patch(recompile_limit=VARIANTS):
        out = _kernel(q.device.type)(*laid, block_mask=seen, enable_gqa=True)
    return out[0].transpose(0, 1)[: len(q)]


@lru_cache
def _kernel(kind: str) -> Callable[..., Tensor]:
    """On a GPU compiled for all lengths at once."""
    return torch.compile(flex_attention, dynamic=True, fullgraph=True) if kind == "cuda" else flex_attention


def _rule(places: Tensor, ends: Tensor) -> Rule:
    """Whether a query sees a key: `places` (S,) of the queries, -1 padding; `ends` (S,) of the keys, 0 padding."""

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= places[query]) & (places[query] < ends[key])

    return seen


def _pairs(asking: np.ndarray, ends: np.ndarray, blocks: int, block: int) -> np.ndarray:
    """(blocks, blocks) how many pairs of a query and a key that it sees each block holds."""
    first = np.searchsorted(asking, np.arange(len(ends)))
    last = np.maximum(first, np.searchsorted(asking, ends))
    return _before(last, blocks, block) - _before(first, blocks, block)


def _before(bounds: np.ndarray, blocks: int, block: int) -> np.ndarray:
    """(blocks, blocks) pairs of a query and a key where the query's number is below the key's bound."""
    at = bounds // block * blocks + np.arange(len(bounds)) // block
    cells = (blocks + 1) * blocks
    rest = np.bincount(at, bounds % block, cells).reshape(-1, blocks).astype(np.int64)
    reached = np.bincount(at, minlength=cells).reshape(-1, blocks)
    beyond = reached[:0:-1].cumsum(0)[::-1]  # keys whose bound lies behind the whole block of queries
    return rest[:-1] + block * beyond


def _listed(chosen: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each block of queries, how many blocks of keys are chosen, and their numbers, these first."""
    order = np.argsort(~chosen, axis=1, kind="stable")
    counts, numbers = (torch.from_numpy(x.astype(np.int32)).to(device) for x in (chosen.sum(1), order))
    return counts[None, None], numbers[None, None]


def _laid(x: Tensor, size: int) -> Tensor:
    """(T, heads, D) → (1, heads, size, D), zeros behind."""
    if len(x) < size:
        x = functional.pad(x, (0, 0, 0, 0, 0, size - len(x)))
    return x.transpose(0, 1)[None]
