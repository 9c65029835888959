"""How much memory a training step takes, from shapes alone, before any weight is read.

Counted is what `decoder.py`, `kernels.py` and `forest/` keep, tensor by tensor; models that transformers runs are
estimated from above. Where a batch's tokens come from, and what to do where memory is short, is the affair of
`train/needs.py`. Measured against the real peak in tests/train/test_needs.py. No library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from weft.models.shape import ATTENTION, FLOAT, MLP, Learning, Pass, Shape

PACKED = 0.516
"""Bytes of a weight in 4 bits, with its share of the scales (`quant.py`)."""
PRODUCTS = 110 << 20
"""What a process holds beside its tensors: prepared matrix products (`product_cache.py`), and holes of the C library's
heap. Measured (docs/training.md): about the same for models of 7 and of 135 million parameters."""
DORA_HOLES = 1 / 8
"""Share of a step that the heap's holes take too, where DoRA makes float32 copies of many sizes. Measured as well."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a training process, beyond what it took before the model."""

    weights: int
    learned: int
    """The adapter, its first and best values and the optimizer's two moments; with `full` all but the weights."""
    step: int
    """At the peak of a step: states kept for the backward pass, gradients, logits, the room that products need."""
    saving: int
    """What writing a checkpoint takes, between steps."""

    @property
    def beyond_weights(self) -> int:
        return self.learned + max(self.step, self.saving)

    @property
    def peak(self) -> int:
        return self.weights + self.beyond_weights


def memory(shape: Shape, learning: Learning, each: Pass, *, logits: int, several: bool, hands: int = 1) -> Memory:
    """The peak of steps whose largest forward pass is `each`.

    `logits`: numbers of a chunk of logits; `several`: whether a step has more than one forward pass, so that gradients
    stand beside states. `hands` processes share the weights and what learns; each has a pass of its own.
    """
    held = learning.held(shape)
    copies = 4 if learning.full else 5
    learned = copies * held * FLOAT
    if learning.bfloat16 and not learning.full and shape.compact and not learning.exact:
        learned += 2 * (shape.vocabulary * shape.width * (1 if shape.tied else 2))
        learned += 0 if learning.quantized else 2 * shape.layers * shape.matrices
    gradients = held * FLOAT
    if not shape.compact:
        step = _general(shape, each) + gradients
    else:
        step = step_bytes(shape, learning, each, logits=logits, several=several)
    if learning.dora:
        step += int(step * DORA_HOLES)
    step = hands * (step + PRODUCTS) + (hands - 1) * gradients
    if learning.holders == 1 or not learning.full:
        saving = 4 * held * FLOAT
    else:  # written tensor by tensor; in a step the outside of the blocks and its gradient are together, and a block
        saving = shape.vocabulary * shape.width * FLOAT
        step += 2 * saving + 2 * shape.matrices * FLOAT
    return Memory(weight_bytes(shape, shape.parameters, learning), learned, step, saving)


def weight_bytes(shape: Shape, parameters: int, learning: Learning) -> int:
    """Bytes of a loaded base of so many `parameters`."""
    packed = shape.layers * shape.matrices if learning.quantized else 0
    return (parameters - packed) * FLOAT + int(packed * PACKED)


def step_bytes(shape: Shape, learning: Learning, each: Pass, *, logits: int, several: bool) -> int:
    """Bytes of the tensors that a step of a compact decoder holds at its peak, beside weights and what learns.

    Compared with what torch allocates in tests/models/test_plan.py.
    """
    layers = [_Layer.of(shape, learning, index, each) for index in range(shape.layers)]
    kept = kept_bytes(shape, learning, each)
    gradients = learning.held(shape) * FLOAT
    around = each.states * shape.width * (3 * learning.stream + FLOAT)  # last norm: in and out; expected rows
    head = kept + around + _head(shape, learning, each, logits)
    deep = layers[-2] if shape.layers > 1 else layers[-1]  # on the way back the first one with all tokens
    if learning.recompute:
        back = kept + deep.on_the_way_back - each.tokens * shape.width * learning.stream
    else:
        back = kept - (layers[-1].kept if shape.layers > 1 else 0) - deep.kept + deep.on_the_way_back
    if not learning.full or several:
        return max(head, back) + (gradients if several else 0)
    # Gradients grow while states go: in the end all of them stand beside the lowest layer, or the embeddings' own.
    table = shape.vocabulary * shape.width * FLOAT
    first = table + shape.matrices * FLOAT
    return max(head, back + first, gradients + max(layers[0].on_the_way_back, table if shape.tied else 0))


def kept_bytes(shape: Shape, learning: Learning, each: Pass) -> int:
    """Bytes that the layers of a compact decoder keep for the backward pass."""
    if learning.recompute:
        return (shape.layers - learning.lowest) * each.tokens * shape.width * learning.stream
    narrow = 2 * shape.layers * shape.matrices if learning.cast else 0  # autocast's copies
    return narrow + sum(_Layer.of(shape, learning, index, each).kept for index in range(shape.layers))


@dataclass(frozen=True)
class _Layer:
    """Bytes of one layer: what its two halves keep, and what their way back needs beside that."""

    attention: int
    mlp: int
    attention_back: int
    mlp_back: int

    @property
    def kept(self) -> int:
        return self.attention + self.mlp

    @property
    def on_the_way_back(self) -> int:
        """The most at once, what is kept included."""
        return self.attention + max(self.mlp + self.mlp_back, self.attention_back)

    @classmethod
    def of(cls, shape: Shape, learning: Learning, index: int, each: Pass) -> _Layer:
        if index < learning.lowest:
            return cls(0, 0, 0, 0)
        tokens = each.tokens
        asking = each.states if index == shape.layers - 1 else tokens
        b, wide, width, inner = learning.width, learning.stream, shape.width, shape.inner
        rows = {name: tokens if name in ATTENTION[1:3] else asking for name in shape.linears}
        attention = 2 * asking * shape.queries * b + 2 * tokens * shape.keys * b  # q, o, k, v
        attention += asking * shape.heads * FLOAT  # sums
        if learning.reaches_inputs or index > learning.lowest:
            attention += tokens * (width * wide + FLOAT)  # the layer's input, kept by its norm
        if shape.qk_norm:
            attention += asking * shape.queries * b + tokens * shape.keys * b
        attention += _of_products(shape, learning, index, ATTENTION, rows)
        mlp = asking * (width * wide + FLOAT)  # after attention, kept by the second norm
        mlp += 3 * asking * inner * b  # gate before and after silu, up
        mlp += _of_products(shape, learning, index, MLP, rows)

        mlp_back = asking * (3 * inner * b + width * wide)  # gradients of silu times up, of silu, of up; the stream's
        if learning.learns(index, MLP[2]) and not learning.apart:
            mlp_back -= asking * inner * b  # the input of the last product is gone by then
        if learning.dora:  # a gradient times the ratio, and times the product; float32 whatever the states
            mlp_back += asking * inner * (2 * FLOAT if learning.bfloat16 else FLOAT)
        scores = each.widest * shape.heads * (2 * FLOAT + (4 if learning.bfloat16 else 0))
        attention_back = scores + tokens * (2 * shape.queries + 2 * shape.keys) * b + 2 * tokens * width * wide
        if learning.quantized:
            unpacked = max(map(math.prod, shape.linears.values())) * (FLOAT + (2 if learning.bfloat16 else 0))
            mlp_back, attention_back = mlp_back + unpacked, attention_back + unpacked
        return cls(attention, mlp, attention_back, mlp_back)


def _of_products(shape: Shape, learning: Learning, index: int, names: tuple[str, ...], rows: Mapping[str, int]) -> int:
    """Bytes that these linear maps of a layer keep: their inputs, and what is between A and B of an adapter."""
    b, sizes = learning.width, shape.linears
    here = [name for name in names if learning.learns(index, name)]
    # The input of the map behind attention is attention's own output, which is counted there.
    inputs = [name for name in here if name != ATTENTION[3]]
    if learning.cast:  # one narrow copy per product
        return sum(rows[name] * sizes[name][0] * b for name in inputs)
    total = 0
    if not learning.full:
        for name in here:
            outputs = sizes[name][1] * (b + (FLOAT if learning.apart else 0)) if learning.dora else 0
            total += rows[name] * (learning.rank * (FLOAT if learning.apart else b) + outputs)
    if learning.apart and (learning.bfloat16 or learning.dropout):  # float32 and apart for each; what was dropped
        one = FLOAT + (b if learning.dropout else 0)
        return total + sum(rows[name] * sizes[name][0] * one for name in here)
    # Maps of the same rows share their input; what of it they see is drawn for each.
    shared = {(rows[name], name == MLP[2]): sizes[name][0] for name in inputs}
    if learning.dropout:
        total += sum(rows[name] * sizes[name][0] * b for name in here)
    return total + sum(count * size * b for (count, _), size in shared.items())


def _head(shape: Shape, learning: Learning, each: Pass, logits: int) -> int:
    """Bytes at the output head: a chunk of logits, and what its own weights need where they learn."""
    chunk = max(1, min(each.states, logits // shape.vocabulary))
    more = each.states > chunk
    per_logit = (10 if more else 6) if learning.bfloat16 else (8 if more else 4)
    table = shape.vocabulary * shape.width
    own = 0
    if learning.full:  # on the way back float32 alone, beside the head's gradient
        back = chunk * shape.vocabulary * (8 if more else 4) + table * FLOAT
        return max(chunk * shape.vocabulary * per_logit, back)
    if learning.rows:
        own = 2 * table * learning.width  # a table with the rows in it, and its gradient
    return chunk * shape.vocabulary * per_logit + own


def _general(shape: Shape, each: Pass) -> int:
    """transformers' own layers, from above: hidden states of 20 widths, 6 inner ones, and scores, per padded token."""
    per_token = 20 * shape.width + 6 * shape.inner
    states = shape.layers * (each.tokens * per_token + 2 * shape.heads * each.cells) * FLOAT
    return states + 4 * each.states * shape.vocabulary * FLOAT
