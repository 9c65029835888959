"""Which bases the compact decoder covers, and their shape: read from `config.json`, before any library sees the folder.

What is not recognised here, or leaves to transformers what it means, takes the general path. Needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.models.facts import FAMILIES

_STATED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
)  # fmt: skip
"""What a configuration must say for itself."""


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, under the names that transformers' configurations use."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: tuple[tuple[str, Any], ...]
    """Name and value of each rotary setting, sorted."""
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool

    def get_text_config(self) -> DecoderConfig:
        """Itself: there is no other modality."""
        return self

    @classmethod
    def read(cls, folder: Path) -> DecoderConfig | None:
        """The shape that `folder/config.json` describes, or None where this file does not cover it."""
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = given.get("model_type")
        if kind not in FAMILIES or any(given.get(key) is None for key in _STATED):
            return None  # transformers knows what it assumes where nothing is said
        rope = _rope(given)
        window = given.get("sliding_window", 0) if given.get("use_sliding_window", kind == "mistral") else None
        foreign = (
            given.get("hidden_act", "silu") != "silu"
            or (window is not None and window < given["max_position_embeddings"])
            or given.get("pretraining_tp", 1) != 1
            or given.get("partial_rotary_factor", 1) != 1
            or any(kind != "full_attention" for kind in given.get("layer_types") or ())
        )
        if foreign or rope is None:
            return None
        heads = given["num_attention_heads"]
        return cls(
            architecture=FAMILIES[kind],
            vocab_size=given["vocab_size"],
            hidden_size=given["hidden_size"],
            intermediate_size=given["intermediate_size"],
            num_hidden_layers=given["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=given["num_key_value_heads"],
            head_dim=given.get("head_dim") or (128 if kind == "qwen3" else given["hidden_size"] // heads),
            rms_norm_eps=given["rms_norm_eps"],
            max_position_embeddings=given["max_position_embeddings"],
            tie_word_embeddings=bool(given.get("tie_word_embeddings", False)),
            rope=tuple(sorted(rope.items())),
            qkv_bias=kind == "qwen2" or bool(given.get("attention_bias", False)),
            output_bias=kind in ("llama", "qwen3") and bool(given.get("attention_bias", False)),
            mlp_bias=kind == "llama" and bool(given.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
        )


def _rope(given: dict[str, Any]) -> dict[str, Any] | None:
    """Rotary settings of a config, old or new spelling; None for a kind that is not covered."""
    rope = dict(given.get("rope_parameters") or {})
    if not rope:
        scaling = dict(given.get("rope_scaling") or {})
        rope = {"rope_theta": given.get("rope_theta", 10000.0), **scaling}
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    needs = {
        "default": {"rope_theta"},
        "linear": {"rope_theta", "factor"},
        "llama3": {
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        },
    }
    wanted = needs.get(rope["rope_type"])
    if wanted is None or not wanted <= rope.keys() or rope.get("partial_rotary_factor", 1) != 1:
        return None
    return {key: rope[key] for key in ("rope_type", *sorted(wanted))}
