"""What the arithmetic of a training goes by: the sizes of the model, what of it learns, and what a pass runs over.

Memory is counted from them in `plan.py`, operations in `flop.py`. No library is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.models.lora_config import ALL_LINEAR, LoraConfig, meant

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
FLOAT = 4
"""Bytes of a float32 number."""


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
        return dict(zip((*ATTENTION, *MLP), sizes, strict=True))

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
    rows: int = 0
    """Tokens whose rows of the vocabulary learn beside the adapter."""
    quantized: bool = False
    """Whether the frozen linear maps are kept in 4 bits."""
    dropout: bool = False
    """Whether inputs to the adapter are dropped at random."""
    holders: int = 1
    """Processes that share the training (`train/sharded.py`)."""

    @classmethod
    def of(cls, shape: Shape, lora: LoraConfig, *, full: bool, precision: str, **also: Any) -> Learning:
        """`precision`: `float32` or `bfloat16`; `also`: the other fields, by their names."""
        adapted = tuple(
            frozenset(name for name in shape.linears if _targeted(lora, f"model.layers.{index}.{name}"))
            for index in range(shape.layers)
        )
        drops = bool(lora.dropped) and not full
        return cls(full, precision == "bfloat16", lora.r, lora.dora, () if full else adapted, dropout=drops, **also)

    def trained(self, shape: Shape) -> int:
        """Numbers that learn; rows of the vocabulary only where they are `counted`."""
        if self.counted or self.full:
            return self.counted or shape.parameters
        sizes = shape.linears
        lengths = 1 if self.dora else 0
        return sum(self.rank * sum(sizes[name]) + lengths * sizes[name][1] for names in self.adapted for name in names)

    def held(self, shape: Shape) -> int:
        """Of the numbers that learn, those that one process holds: an adapter is whole in each."""
        return -(-self.trained(shape) // self.holders) if self.full else self.trained(shape)

    def learns(self, index: int, name: str) -> bool:
        """Whether this linear map of this layer learns, itself or by an adapter."""
        return self.full or name in self.adapted[index]

    @property
    def lowest(self) -> int:
        """The lowest layer that gets a gradient."""
        return (
            0
            if self.full or self.rows
            else next((i for i, names in enumerate(self.adapted) if names), len(self.adapted))
        )

    @property
    def reaches_inputs(self) -> bool:
        """Whether the embeddings get a gradient, so that the lowest layer passes it on."""
        return self.full or bool(self.rows)

    @property
    def width(self) -> int:
        """Bytes of a number of the states."""
        return 2 if self.bfloat16 else FLOAT

    @property
    def apart(self) -> bool:
        """Whether an adapter's product is made apart from the frozen one, in float32 (`LoraLinear.adapted`)."""
        return not self.full and (self.quantized or (self.dora and self.dropout))

    @property
    def cast(self) -> bool:
        """Whether weights and states are float32 and each product makes its own narrow copies (`autocast`)."""
        return self.full and self.bfloat16

    @property
    def stream(self) -> int:
        """Bytes of a number of the residual stream."""
        return FLOAT if self.cast else self.width


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


def _targeted(lora: LoraConfig, name: str) -> bool:
    if lora.targets == ALL_LINEAR:
        return True
    return any(meant(target, [name]) for target in lora.targets)
