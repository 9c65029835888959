"""The least arithmetic of a training step, in floating-point operations. A multiplication with its addition counts two.

Counted are matrix products alone: each distinct state once, the last layer's queries and MLP and the head only where a
token is learned, no gradient below the lowest trained layer, no weight gradient for frozen layers, causal pairs only,
nothing computed twice. Shared: equal beginnings once (a trie over token ids); unshared: each sequence for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.peers.cell import ALL_LINEAR, RANK, SHAPES, TARGETS, Cell, Example


@dataclass(frozen=True)
class Counts:
    """Sizes of a batch: states, (query, key) pairs, and both for those states that predict a learned token."""

    states: int
    pairs: int
    sources: int
    source_pairs: int


def count(rows: Iterable[tuple[Sequence[int], int]], *, shared: bool) -> Counts:
    """`rows`: token ids with the place of the first learned one. A row's last token predicts nothing: not counted."""
    states: dict[tuple[int, int], int] = {}
    depths: list[int] = []
    sources: set[int] = set()
    for number, (ids, begin) in enumerate(rows):
        parent = -1 if shared else -1 - number
        for depth, token in enumerate(ids[:-1], 1):
            state = states.setdefault((parent, token), len(states))
            if state == len(depths):
                depths.append(depth)
            parent = state
            if depth >= begin:
                sources.add(state)
    return Counts(len(depths), sum(depths), len(sources), sum(depths[state] for state in sources))


def flop(cell: Cell, batch: Sequence[Example], *, shared: bool) -> float:
    """Forward and backward of one step."""
    shape = SHAPES[cell.model]
    size = count([row for example in batch for row in example.rows], shared=shared)
    hidden, layers, inner = shape["hidden_size"], shape["num_hidden_layers"], shape["intermediate_size"]
    width = hidden  # of all heads together
    kept = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    linear = {
        "q_proj": (hidden, width), "k_proj": (hidden, kept), "v_proj": (hidden, kept), "o_proj": (width, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
    }  # fmt: skip
    full = cell.adapt == "full"
    total = 0.0
    for layer in range(layers):
        last = layer == layers - 1
        for name in ALL_LINEAR:
            rows = size.sources if last and name not in ("k_proj", "v_proj") else size.states
            product = 2.0 * rows * linear[name][0] * linear[name][1]
            lowest = layer == 0 and name in ("q_proj", "k_proj", "v_proj")
            total += product * (1 + (full or not lowest) + full)  # forward, to the input, to the weight
            if name in TARGETS[cell.adapt]:
                total += _low_rank(rows, *linear[name], to_input=not lowest)
        pairs = size.source_pairs if last else size.pairs
        total += 3 * 4.0 * pairs * width  # scores and sums; both have two gradients
    head = 2.0 * size.sources * hidden * shape["vocab_size"]
    return total + head * (2 + full)


def _low_rank(rows: int, inputs: int, outputs: int, *, to_input: bool) -> float:
    """Forward, both weight gradients, and the gradient to the bottleneck (and on to the input where it is needed)."""
    down, up = 2.0 * rows * RANK * inputs, 2.0 * rows * RANK * outputs
    return 2 * (down + up) + up + (down if to_input else 0.0)
