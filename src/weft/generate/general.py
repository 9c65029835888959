"""The serving pass over any causal model of transformers, or one kept in 4 bits: right, and slower than `passes.py`.

Each row has a cache of the library's own kind, so windows and whatever else a family has work as they do there. Rows
run one after another, those of one adapter together; the adapter's layers stand in for the model's meanwhile. There is
no prefix cache: such caches cannot be cut into blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from weft.generate.cache import empty_cache
from weft.generate.work import Work
from weft.models.load import Base
from weft.models.lora_files import Adapter
from weft.models.lora_layers import layer_class
from weft.models.token_rows import RowEmbedding, RowHead, vocabulary


@dataclass(eq=False, slots=True)
class CacheSeat:
    """A row's place."""

    cache: Any = field(default_factory=empty_cache)
    length: int = 0


class GeneralPass:
    """`forward` and what it needs. The model belongs to the pass: its layers are exchanged while it works."""

    block_bytes = 0

    def __init__(self, base: Base) -> None:
        self.model: Any = base.model
        self.device = base.device
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.token_bytes = 2 * config.num_hidden_layers * heads * width * next(self.model.parameters()).itemsize
        self._known = dict(self.model.named_modules())
        self._tables = vocabulary(self.model)

    def pack(self, identity: str, adapter: Adapter) -> tuple[Mapping[str, nn.Module], int]:
        """The adapter's layers by the name of those that they stand in for, and their bytes."""
        layers: dict[str, nn.Module] = {}
        for name, tensors in adapter.layers.items():
            layer = layer_class(adapter.config)(self._known[name], adapter.config).eval()
            for key, part in layer.parts().items():
                part.requires_grad_(False).copy_(tensors[key])
            layers[name] = layer
        size = sum(tensor.nbytes for tensors in adapter.layers.values() for tensor in tensors.values())
        for tokens, rows in adapter.rows.values():
            assert self._tables is not None, "read_adapter refuses rows where there is no room for them"
            own = nn.Parameter(rows.to(self.device), requires_grad=False)
            layers[self._tables.head[0]] = RowHead(self._tables.head[1], tokens, own)
            if self._tables.tied:
                layers[self._tables.inputs[0]] = RowEmbedding(self._tables.inputs[1], tokens, own)
            size += rows.nbytes
        return layers, size

    def open(self, prompt: int) -> CacheSeat:
        """A seat for a row."""
        return CacheSeat()

    def close(self, seat: CacheSeat) -> None:
        """Let go what the seat holds."""
        seat.cache = None

    def fill(self, seat: CacheSeat, blocks: list[Any]) -> None:
        """There are no blocks: `block_bytes` is 0, so none is ever asked for."""
        raise NotImplementedError

    def block(self, seat: CacheSeat, place: int) -> Any:
        """There are no blocks."""
        raise NotImplementedError

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (asking works, V) float32, in the order of `works`. The seats hold the ids afterwards."""
        groups: dict[int, list[Work]] = {}
        for work in works:
            groups.setdefault(id(work.adapter), []).append(work)
        logits: dict[int, Tensor] = {}
        for group in groups.values():
            with self._adapted(group[0].adapter):
                for work in group:
                    logits[id(work)] = self._read(work)
        asked = [logits[id(work)] for work in works if work.asks]
        return torch.stack(asked).float() if asked else torch.empty(0)

    def _read(self, work: Work) -> Tensor:
        seat = work.seat
        ids = torch.tensor([work.ids], device=self.device)
        places = torch.arange(seat.length, seat.length + len(work.ids), device=self.device)[None]
        output = self.model(
            input_ids=ids, position_ids=places, past_key_values=seat.cache, use_cache=True, logits_to_keep=1
        )
        seat.length += len(work.ids)
        return output.logits[0, -1]

    @contextlib.contextmanager
    def _adapted(self, layers: Mapping[str, nn.Module] | None) -> Iterator[None]:
        for name, layer in (layers or {}).items():
            _put(self.model, name, layer)
        try:
            yield
        finally:
            for name in layers or {}:
                _put(self.model, name, self._known[name])


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
