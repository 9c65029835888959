"""A compact decoder for the Llama family, read straight from safetensors: most bases, without a library's cost.

Llama, Mistral, Qwen2, Qwen3 and their like: grouped-query attention, rotary positions, RMSNorm, SwiGLU, tied or own
head, biases, q/k norm. Parameters have the names that transformers gives them, so adapters and files fit. Equal to
transformers up to rounding (tests/models/test_decoder.py). Which bases it covers says `decoder_config.py`.

States are flat, one row per token; who may see whom is the business of the `Attend` that the caller brings.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from weft.errors import ModelError
from weft.models import attention, kernels
from weft.models.decoder_config import DecoderConfig


class Attend(Protocol):
    """Attention of one layer over flat states, causal along each sequence.

    q (Q, H, D); k, v (T, K, D) → (Q, H, D). Q is T, or the number of kept rows where `kept` is true.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kept: bool) -> Tensor: ...


class Output(NamedTuple):
    """What a transformers model gives back, as far as it is used."""

    logits: Tensor


class Linear(nn.Linear):
    """Without first values: they come from a file."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """Without first values: they come from a file."""

    def reset_parameters(self) -> None:
        pass


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        width, self.head_dim, self.index = config.hidden_size, config.head_dim, index
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(width, queries, bias=config.qkv_bias)
        self.k_proj = Linear(width, keys, bias=config.qkv_bias)
        self.v_proj = Linear(width, keys, bias=config.qkv_bias)
        self.o_proj = Linear(queries, width, bias=config.output_bias)
        self.q_norm = RmsNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, keep: Tensor | None) -> Tensor:
        asking = x if keep is None else x[keep]
        q = self.q_norm(self.q_proj(asking).view(len(asking), -1, self.head_dim))
        k = self.k_norm(self.k_proj(x).view(len(x), -1, self.head_dim))
        v = self.v_proj(x).view(len(x), -1, self.head_dim)
        cos, sin = turns
        k = kernels.rotated(k, cos, sin)
        q = kernels.rotated(q, cos, sin) if keep is None else kernels.rotated(q, cos[keep], sin[keep])
        return self.o_proj(attend(self.index, q, k, v, keep is not None).reshape(len(asking), -1))


class Mlp(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(width, inner, bias=config.mlp_bias)
        self.up_proj = Linear(width, inner, bias=config.mlp_bias)
        self.down_proj = Linear(inner, width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, keep: Tensor | None) -> Tensor:
        """x (T, W) → (T, W), or only the rows of `keep`: the others still serve as keys and values."""
        seen = self.self_attn(self.input_layernorm(x), turns, attend, keep)
        x = (x if keep is None else x[keep]) + seen
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embeddings, layers and the last norm; the name `model` of these parts is transformers'."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model. `states` is the pass over flat tokens; calling it serves rectangular batches."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.recompute = False
        """Whether layers keep their input alone and are computed again on the way back: less memory, more work."""
        self._frequencies, self._turn_scale = _frequencies(dict(config.rope), config.head_dim)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def states(self, ids: Tensor, positions: Tensor, attend: Attend, keep: Tensor | None = None) -> Tensor:
        """Last states, normalised: ids and positions (T,) → (T, W), or (len(keep), W) for the rows `keep` alone.

        What only the other rows would need is then not computed in the last layer.
        """
        x = self.model.embed_tokens(ids)
        angles = torch.outer(positions.float(), self._frequencies.to(ids.device))
        turns = angles.cos().mul_(self._turn_scale), angles.sin().mul_(self._turn_scale)
        last = len(self.model.layers) - 1
        for index, layer in enumerate(self.model.layers):
            args = x, turns, attend, keep if index == last else None
            again = self.recompute and torch.is_grad_enabled()
            x = checkpoint(layer, *args, use_reentrant=False) if again else layer(*args)
        return self.model.norm(x)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Output:
        """Logits (B, columns kept, V) of ids (B, T), asked for as transformers' models are.

        Every id sees all that the cache holds and the columns up to its own. `use_cache` says nothing: a cache that is
        given is kept. `logits_to_keep`: the last so many columns (0: all).
        """
        rows, length = input_ids.shape
        cache = past_key_values
        if position_ids is None:
            held = 0 if cache is None else int(cache.get_seq_length())
            position_ids = torch.arange(held, held + length, device=input_ids.device).expand(rows, -1)
        columns = min(logits_to_keep or length, length)
        last = torch.arange(rows * length, device=input_ids.device).view(rows, length)[:, length - columns :].flatten()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, kept: bool) -> Tensor:
            query, key, value = (x.view(rows, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
            if cache is not None:
                key, value = cache.update(key, value, layer)
            return attention.over_rows(query, key, value, None).flatten(0, 1)

        keep = None if columns == length else last
        hidden = self.states(input_ids.flatten(), position_ids.flatten(), attend, keep)
        return Output(self.lm_head(hidden).view(rows, columns, -1))


def load(folder: Path, config: DecoderConfig, weights: list[Path], dtype: torch.dtype) -> Decoder:
    """The decoder with the weights of these files. Raises ModelError where some are missing or misshapen."""
    from safetensors.torch import load_file

    model = Decoder(config)
    wanted = dict(model.named_parameters())
    own: dict[str, Tensor] = {}
    for path in weights:
        for name, tensor in load_file(path).items():
            own[name] = tensor
    if config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
    missing = sorted(wanted.keys() - own.keys())
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, for example {missing[0]}. "
            "The file is incomplete or of another model; fetch it again."
        )
    wrong = [name for name in wanted if wanted[name].shape != own[name].shape]
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{folder}: {len(wrong)} weights have another shape than config.json says, for example {name}: "
            f"{tuple(own[name].shape)}, expected {tuple(wanted[name].shape)}. Fetch the model again."
        )
    for name in wanted:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Parameter(own[name].to(dtype, copy=True)))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _frequencies(rope: dict[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """Angle per position of each pair (D / 2,), and the factor on cosine and sine.

    `llama3`: low frequencies are slowed down by `factor`, high ones stay, those between are mixed (Llama 3.1 report;
    huggingface/transformers `modeling_rope_utils.py`).
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32)
    plain = 1.0 / (rope["rope_theta"] ** (pairs / head_dim))
    if rope["rope_type"] == "default":
        return plain, 1.0
    slow = plain / rope["factor"]
    if rope["rope_type"] == "linear":
        return slow, 1.0
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    length = 2 * math.pi / plain
    share = ((context / length - low) / (high - low)).clamp(0.0, 1.0)
    mixed = (1 - share) * slow + share * plain
    mixed = torch.where(length > context / low, slow, mixed)
    return torch.where(length < context / high, plain, mixed), 1.0
