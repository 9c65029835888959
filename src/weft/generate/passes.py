"""The serving pass over a `Decoder`: the rows of one step, each with its own adapter, in few and large operations.

The arithmetic is that of `models/decoder.py` (a test holds both together); what differs is how it is laid out. Layers
that read the same states are one product; rows that answer share attention by arenas (`arenas.py`), those that read a
part of their prompt attend on their own; adapters are stacked (`stack.py`). No gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from weft.generate.arenas import Arenas, Block, Seat, Shape
from weft.generate.prefixes import BLOCK
from weft.generate.stack import Stack
from weft.generate.step import StepLayout
from weft.generate.step_adapters import StepAdapters
from weft.generate.updates import HEAD, Key, Product, ServedAdapter, serve
from weft.generate.work import Work
from weft.models.decoder import Decoder
from weft.models.lora_files import Adapter


class _Layer(NamedTuple):
    before: Tensor
    qkv: Product
    heads: Tensor | None
    """(H + K, D): the norms' weights of query and key heads."""
    out: Product
    after: Tensor
    gate_up: Product
    down: Product


class DecoderPass:
    """`forward` and what it needs. The matrices of `model` become views of joined ones, in `dtype`: it stays usable."""

    def __init__(self, model: Decoder, context: int, dtype: torch.dtype) -> None:
        config = model.config
        self.model, self.dtype, self.eps = model, dtype, config.rms_norm_eps
        self.device = model.model.embed_tokens.weight.device
        self.width, self.kept, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.products: dict[Key, Product] = {}
        self._places: dict[str, tuple[Key, int]] = {}
        self._layers = [self._joined(index, layer) for index, layer in enumerate(model.model.layers)]
        table, head = model.model.embed_tokens.weight, model.lm_head.weight
        with torch.no_grad():
            table.data = table.data.to(dtype)
            head.data = table.data if config.tie_word_embeddings else head.data.to(dtype)
        self.norm = model.model.norm.weight.detach().to(dtype)
        self.products[HEAD] = Product(model.lm_head.weight.detach().T, None, ((0, config.vocab_size),))
        self._places["lm_head"] = (HEAD, 0)
        shape = Shape(len(self._layers), self.kept, self.size, dtype, self.device)
        self.arenas = Arenas(shape, context)
        self.block_bytes = shape.token_bytes * BLOCK
        self.token_bytes = shape.token_bytes
        inner = {key: product for key, product in self.products.items() if key != HEAD}
        self.stack = Stack(inner, dtype, self.device)

    def pack(self, identity: str, adapter: Adapter) -> tuple[ServedAdapter, int]:
        """What `Work.adapter` is, and its bytes."""
        tied = self.model.config.tie_word_embeddings
        words = self.model.config.vocab_size
        served = serve(identity, adapter, self._places, self.products, self.dtype, tied=tied, vocabulary=words)
        return served, served.size

    @torch.inference_mode()
    def open(self, prompt: int) -> Seat:
        """A seat for a row whose prompt is so long."""
        return self.arenas.open(prompt)

    @torch.inference_mode()
    def close(self, seat: Seat) -> None:
        """Let go what the seat holds."""
        self.arenas.close(seat)

    @torch.inference_mode()
    def fill(self, seat: Seat, blocks: list[Any]) -> None:
        """Begin with blocks of the prefix cache."""
        self.arenas.fill(seat, blocks)

    @torch.inference_mode()
    def block(self, seat: Seat, place: int) -> Block:
        """A copy of block number `place` of what the seat holds."""
        held = seat.tokens(place * BLOCK, (place + 1) * BLOCK)
        return Block(held.keys.clone(), held.values.clone())

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (n, V) float32: so many rows of each work as it wants, in order. The seats hold the ids afterwards."""
        step = StepLayout(self.arenas, self.width // self.kept, works)
        adapters = StepAdapters(step, self.stack, self.products)
        x = functional.embedding(step.ids, self.model.model.embed_tokens.weight)
        adapters.place_rows(x)
        cos, sin = self._turns(step.positions)
        for index, layer in enumerate(self._layers):
            x = self._layer(index, layer, x, (cos, sin), step, adapters)
        x = self._normal(x if step.keep is None else x[step.keep], self.norm)
        for work in works:
            work.seat.length += len(work.ids)
        return adapters.headed(x, self.products[HEAD](x)).float()

    def _layer(
        self,
        index: int,
        layer: _Layer,
        x: Tensor,
        turns: tuple[Tensor, Tensor],
        step: StepLayout,
        adapters: StepAdapters,
    ) -> Tensor:
        states = self._normal(x, layer.before)
        mixed = layer.qkv(states)
        adapters.adapt((index, "qkv"), states, mixed)
        heads = mixed.view(len(x), -1, self.size)
        turning = heads[:, : self.width + self.kept].float()
        if layer.heads is not None:
            turning = functional.rms_norm(turning, (self.size,), None, self.eps).mul_(layer.heads)
        half = self.size // 2
        turned = torch.addcmul(turning * turns[0], turning.roll(half, -1), turns[1]).to(self.dtype)
        seen = step.attend(index, turned[:, : self.width], turned[:, self.width :], heads[:, self.width + self.kept :])
        change = layer.out(seen)
        adapters.adapt((index, "out"), seen, change)
        x = x + change
        states = self._normal(x, layer.after)
        both = layer.gate_up(states)
        adapters.adapt((index, "gate_up"), states, both)
        gate, up = both.chunk(2, -1)
        inner = functional.silu(gate).mul_(up)
        change = layer.down(inner)
        adapters.adapt((index, "down"), inner, change)
        return x.add_(change)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, 1, D), the sine's first half negative: x cos + roll(x) sin is the rotation."""
        model = self.model
        angles = torch.outer(positions.float(), model._frequencies.to(self.device))
        cos, sin = angles.cos().mul_(model._turn_scale), angles.sin().mul_(model._turn_scale)
        return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]

    def _joined(self, index: int, layer: Any) -> _Layer:
        attention, mlp, name = layer.self_attn, layer.mlp, f"model.layers.{index}"
        heads = None
        if isinstance(getattr(attention.q_norm, "weight", None), Tensor):
            norms = [attention.q_norm.weight.detach().float()] * self.width
            heads = torch.stack(norms + [attention.k_norm.weight.detach().float()] * self.kept)
        mixing = {key: getattr(attention, key) for key in ("q_proj", "k_proj", "v_proj")}
        return _Layer(
            layer.input_layernorm.weight.detach().to(self.dtype),
            self._product((index, "qkv"), f"{name}.self_attn", mixing),
            heads,
            self._product((index, "out"), f"{name}.self_attn", {"o_proj": attention.o_proj}),
            layer.post_attention_layernorm.weight.detach().to(self.dtype),
            self._product((index, "gate_up"), f"{name}.mlp", {"gate_proj": mlp.gate_proj, "up_proj": mlp.up_proj}),
            self._product((index, "down"), f"{name}.mlp", {"down_proj": mlp.down_proj}),
        )

    @torch.no_grad()
    def _product(self, key: Key, parent: str, layers: dict[str, Any]) -> Product:
        """One product of these layers, whose weights become views of it."""
        weight = torch.cat([layer.weight.to(self.dtype) for layer in layers.values()]).T.contiguous()
        bias, bounds, start = None, [], 0
        if next(iter(layers.values())).bias is not None:
            bias = torch.cat([layer.bias.to(self.dtype) for layer in layers.values()])
        for place, (name, layer) in enumerate(layers.items()):
            stop = start + layer.weight.shape[0]
            layer.weight.data = weight[:, start:stop].T
            if bias is not None:
                layer.bias.data = bias[start:stop]
            bounds.append((start, stop))
            self._places[f"{parent}.{name}"] = (key, place)
            start = stop
        self.products[key] = Product(weight, bias, tuple(bounds))
        return self.products[key]
