"""What a training step needs, from shapes alone: memory and FLOP before any weight is read.

Counted is what `decoder.py`, `kernels.py` and `forest/` keep and multiply, tensor by tensor; models that transformers
runs are estimated from above. Where a batch's tokens come from, and what to do where memory is short, is the affair of
`train/needs.py`. Measured against the real peak in tests/train/test_needs.py. No library is needed.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.models.lora_config import ALL_LINEAR, LoraConfig

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
HEAP = 1.4
"""Memory that the process holds over what tensors need at once: the C library's heap has holes. Measured."""
PRODUCTS = 85 << 20
"""What prepared matrix products take, and holes of the heap around them (`product_cache.py`). Measured."""
FLOAT = 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that its arithmetic goes by."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kept_heads: int
    """Heads of keys and values."""
    head_dim: int
    tied: bool
    qk_norm: bool = False
    compact: bool = True
    """Whether `decoder.py` runs it; otherwise transformers does, over padded rows."""

    @classmethod
    def of(cls, config: Any, compact: bool = True) -> Shape:
        """From a configuration of transformers or of `decoder.py`, or from what a `config.json` holds.

        Raises KeyError for a configuration that names no sizes.
        """

        def find(*names: str) -> Any:
            for name in names:
                value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
                if value is not None:
                    return value
            return None

        if (text := find("text_config")) is not None:
            return cls.of(text, compact)
        sizes = {
            name: find(*names)
            for name, names in {
                "vocabulary": ("vocab_size",),
                "width": ("hidden_size", "n_embd", "d_model"),
                "layers": ("num_hidden_layers", "n_layer", "num_layers"),
                "heads": ("num_attention_heads", "n_head", "num_heads"),
            }.items()
        }
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise KeyError(name)
        width, heads = sizes["width"], sizes["heads"]
        return cls(
            **sizes,
            inner=find("intermediate_size", "n_inner", "ffn_dim") or 4 * width,
            kept_heads=find("num_key_value_heads") or heads,
            head_dim=find("head_dim") or width // heads,
            tied=bool(find("tie_word_embeddings")),
            qk_norm=bool(find("qk_norm")) or find("model_type") == "qwen3",
            compact=compact,
        )

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kept_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear maps of one layer, by their names in it."""
        width, inner, queries, keys = self.width, self.inner, self.queries, self.keys
        sizes = ((width, queries), (width, keys), (width, keys), (queries, width))
        sizes += ((width, inner), (width, inner), (inner, width))
        return dict(zip((*PARTS, *MLP), sizes, strict=True))

    @property
    def matrices(self) -> int:
        """Numbers in the linear maps of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def parameters(self) -> int:
        """Numbers in the model, biases left out; tied tables count once."""
        tables = (1 if self.tied else 2) * self.vocabulary * self.width
        norms = (2 * self.layers + 1) * self.width
        return self.layers * self.matrices + tables + norms


@dataclass(frozen=True)
class Learning:
    """What learns, and in which numbers."""

    full: bool
    bfloat16: bool
    rank: int = 0
    dora: bool = False
    adapted: tuple[frozenset[str], ...] = ()
    """Per layer the names of the linear maps with an adapter."""
    exact: bool = False
    """Whether the weights fit bfloat16, so that no second copy of them is kept."""
    recompute: bool = False
    counted: int = 0
    """Numbers that learn, where they were counted in the model itself."""

    @classmethod
    def of(cls, shape: Shape, lora: LoraConfig, *, full: bool, precision: str, **also: Any) -> Learning:
        """`precision`: `float32` or `bfloat16`; `also`: `exact`, `recompute`, `counted`."""
        adapted = tuple(
            frozenset(name for name in shape.linears if _targeted(lora, f"model.layers.{index}.{name}"))
            for index in range(shape.layers)
        )
        return cls(full, precision == "bfloat16", lora.r, lora.dora, () if full else adapted, **also)

    def trained(self, shape: Shape) -> int:
        """Numbers that learn."""
        if self.counted or self.full:
            return self.counted or shape.parameters
        sizes = shape.linears
        lengths = 1 if self.dora else 0
        return sum(self.rank * sum(sizes[name]) + lengths * sizes[name][1] for names in self.adapted for name in names)

    @property
    def lowest(self) -> int:
        """The lowest layer that gets a gradient."""
        return 0 if self.full else next((i for i, names in enumerate(self.adapted) if names), len(self.adapted))

    @property
    def width(self) -> int:
        """Bytes of a number of the states."""
        return 2 if self.bfloat16 else FLOAT


@dataclass(frozen=True)
class Pass:
    """What one forward pass runs over."""

    tokens: int
    """Distinct tokens: shared beginnings count once."""
    states: int
    """Of them those that predict something."""
    cells: int
    """Scores of one head in an inner layer, and `kept_cells` in the last."""
    kept_cells: int
    widest: int
    """Scores of one head that exist at once."""


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
    trained = learning.trained(shape)
    weights = shape.parameters * FLOAT
    copies = 4 if learning.full else 5
    learned = copies * trained * FLOAT
    if learning.bfloat16 and not learning.full and shape.compact:
        narrow = 2 * (shape.layers * shape.matrices + shape.vocabulary * shape.width * (1 if shape.tied else 2))
        if learning.exact:
            weights -= narrow
        else:
            learned += narrow
    gradients = trained * FLOAT
    if not shape.compact:
        step = _general(shape, each) + gradients
    else:
        step = _peak(shape, learning, each, logits, several, gradients)
    step = hands * (int(HEAP * step) + PRODUCTS) + (hands - 1) * gradients
    return Memory(weights, learned, step, copies * trained * FLOAT if learning.full else 4 * trained * FLOAT)


def _peak(shape: Shape, learning: Learning, each: Pass, logits: int, several: bool, gradients: int) -> int:
    b, width, tokens = learning.width, shape.width, each.tokens
    full_narrow = learning.full and learning.bfloat16
    wide = FLOAT if full_narrow else b  # of the residual stream
    whole = [_kept(shape, learning, index, each) for index in range(shape.layers)]
    kept = kept_bytes(shape, learning, each)
    inner = whole[-2] if shape.layers > 1 else 0
    if learning.recompute:
        inner = 0
    around = each.states * width * (3 * wide + FLOAT)  # last norm: in and out; expected rows of the head
    chunk = max(1, min(each.states, logits // shape.vocabulary))
    more = each.states > chunk
    per_logit = (10 if more else 6) if learning.bfloat16 else (8 if more else 4)
    logits_room = chunk * shape.vocabulary * per_logit
    table = shape.vocabulary * width
    if learning.full:
        logits_room += table * (FLOAT + (2 if full_narrow else 0))  # the head's gradient, and its narrow copy
    mlp = tokens * (3 * shape.inner * b + 3 * width * wide)
    scores = each.widest * shape.heads * (2 * FLOAT + (4 if learning.bfloat16 else 0))
    attention = scores + tokens * (2 * shape.queries + 2 * shape.keys) * b + 2 * tokens * width * wide
    backward = kept - (0 if learning.recompute else whole[-1]) + max(mlp, attention)
    if learning.recompute:
        backward += max(whole)
    peak = max(kept + around + logits_room, backward + around)
    if several:
        return peak + gradients
    return max(peak, gradients + max(inner, mlp) if learning.full else 0)


def kept_bytes(shape: Shape, learning: Learning, each: Pass) -> int:
    """Bytes that the layers of a compact decoder keep for the backward pass."""
    if learning.recompute:
        wide = FLOAT if learning.full else learning.width
        return (shape.layers - learning.lowest) * each.tokens * shape.width * wide
    narrow = 2 * shape.layers * shape.matrices if learning.full and learning.bfloat16 else 0  # autocast's copies
    return narrow + sum(_kept(shape, learning, index, each) for index in range(shape.layers))


def _kept(shape: Shape, learning: Learning, index: int, each: Pass) -> int:
    """Bytes that a layer keeps for its backward pass."""
    if index < learning.lowest:
        return 0
    tokens = each.tokens
    asking = each.states if index == shape.layers - 1 else tokens
    here = frozenset(shape.linears) if learning.full else learning.adapted[index]
    b = learning.width
    cast = learning.full and learning.bfloat16
    wide = FLOAT if cast else b
    width, inner, queries, keys = shape.width, shape.inner, shape.queries, shape.keys
    q, k, v, _, gate, up, down = (name in here for name in shape.linears)
    total = 0
    if learning.full or index > learning.lowest:
        total += tokens * (width * wide + FLOAT)  # the layer's input, kept by its norm
    if cast:
        total += (2 * tokens + asking) * width * b + 2 * asking * width * b  # one narrow copy per product
    else:
        total += tokens * width * b if k or v or (q and asking == tokens) else 0
        total += asking * width * b if q and asking != tokens else 0
        total += asking * width * b if gate or up else 0
    total += 2 * asking * queries * b + 2 * tokens * keys * b + asking * shape.heads * FLOAT  # q, k, v, o, sums
    if shape.qk_norm:
        total += asking * queries * b + tokens * keys * b
    total += asking * (width * wide + FLOAT)  # after attention, kept by the second norm
    total += asking * 3 * inner * b + (asking * inner * b if down else 0)
    if not learning.full:
        for name, (_, outputs) in shape.linears.items():
            if name in here:
                rows = tokens if name in PARTS[1:3] else asking
                total += rows * (learning.rank + (outputs if learning.dora else 0)) * b
    return total


def _general(shape: Shape, each: Pass) -> int:
    """transformers' own layers, from above: hidden states of 20 widths, 6 inner ones, and scores, per padded token."""
    per_token = 20 * shape.width + 6 * shape.inner
    states = shape.layers * (each.tokens * per_token + 2 * shape.heads * each.cells) * FLOAT
    return states + 4 * each.states * shape.vocabulary * FLOAT


def flop(shape: Shape, learning: Learning, each: Pass) -> int:
    """Floating-point operations of one forward and backward pass, two for each product of a matrix product."""
    linear, scores = 0, 0
    for index in range(shape.layers):
        last = index == shape.layers - 1
        asking = each.states if last else each.tokens
        cells = each.kept_cells if last else each.cells
        here = frozenset(shape.linears) if learning.full else learning.adapted[index]
        forward = 0
        for name, (inputs, outputs) in shape.linears.items():
            rows = each.tokens if name in PARTS[1:3] else asking
            product = 2 * rows * inputs * outputs
            lowest_inputs = index == learning.lowest and name in PARTS[:3] and not learning.full
            back = index >= learning.lowest and not lowest_inputs
            forward += product
            linear += product * (1 + back + (1 if learning.full else 0))
            if name in here and not learning.full:
                rank = 2 * rows * learning.rank
                linear += rank * (2 * (inputs + outputs) + outputs + (inputs if back else 0))
                forward += rank * (inputs + outputs)
        scores += 4 * cells * shape.queries + (10 * cells * shape.queries if index >= learning.lowest else 0)
        if learning.recompute and index >= learning.lowest:
            linear += forward
            scores += 4 * cells * shape.queries
        if learning.dora:
            linear += sum(2 * learning.rank * math.prod(shape.linears[name]) for name in here)
    head = 2 * each.states * shape.vocabulary * shape.width
    return linear + scores + head * (4 if learning.full else 2)


def adapter_bytes(trained: int, layers: int) -> int:
    """Size of an adapter's file: float32 numbers and a header that names each tensor."""
    return trained * FLOAT + 130 * layers


def _targeted(lora: LoraConfig, name: str) -> bool:
    if lora.targets == ALL_LINEAR:
        return True
    return any(
        name == target or name.endswith(f".{target}") or fnmatch.fnmatchcase(name, target) for target in lora.targets
    )
