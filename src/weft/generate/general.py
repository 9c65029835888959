"""The serving pass over any causal model of transformers, or one kept in 4 bits: right, and slower than `passes.py`.

Each row has a cache of the library's own kind, so windows and whatever else a family has work as they do there. Rows
run one after another, those of one adapter together; the adapter's layers stand in for the model's meanwhile. There is
no prefix cache: such caches cannot be cut into blocks, only copied whole.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from weft.forest.logprobs import LOGITS, of_logits
from weft.generate.arenas import Seat
from weft.generate.beside import Beside, go_beside
from weft.generate.plain import Read
from weft.generate.work import Work
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.models.lora_files import Adapter
from weft.models.lora_layers import layer_class
from weft.models.token_rows import RowEmbedding, RowHead, vocabulary
from weft.records import Tokens


@dataclass(eq=False, slots=True)
class CacheSeat:
    """A row's place."""

    cache: Any
    length: int = 0


class GeneralPass:
    """`forward` and what it needs. The model belongs to the pass: its layers are exchanged while it works."""

    block_bytes = 0

    def __init__(self, base: Base, reach: int | None = None) -> None:
        """`reach`: most tokens that a row will have; where that is known, rows that `read` takes go on side by side."""
        self.model: Any = base.model
        self.device = base.device
        config = self.model.config.get_text_config()
        asking = getattr(config, "num_attention_heads", None) or 1  # a recurrent family has none
        heads = getattr(config, "num_key_value_heads", None) or asking
        width = getattr(config, "head_dim", None) or config.hidden_size // asking
        self.token_bytes = 2 * config.num_hidden_layers * heads * width * next(self.model.parameters()).itemsize
        self._known = dict(self.model.named_modules())
        self._tables = vocabulary(self.model)
        self._start: CacheSeat | None = None
        self._beside = Beside(self.model, base.context) if reach and go_beside(self.model, reach) else None

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
        known = isinstance(self.model, Decoder)  # whose configuration the library does not know
        return CacheSeat(DynamicCache() if known else DynamicCache(config=self.model.config))

    def close(self, seat: CacheSeat | Seat) -> None:
        """Let go what the seat holds."""
        if isinstance(seat, CacheSeat):
            seat.cache = None
        elif self._beside is not None:
            self._beside.close(seat)

    def fill(self, seat: CacheSeat, blocks: list[Any]) -> None:
        """There are no blocks: `block_bytes` is 0, so none is ever asked for."""
        raise NotImplementedError

    def block(self, seat: CacheSeat, place: int) -> Any:
        """There are no blocks."""
        raise NotImplementedError

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (n, V) float32: so many rows of each work as it wants, in order. The seats hold the ids afterwards."""
        if self._beside is not None:
            return self._beside.forward(works).float()
        groups: dict[int, list[Work]] = {}
        for work in works:
            groups.setdefault(id(work.adapter), []).append(work)
        logits: dict[int, Tensor] = {}
        for group in groups.values():
            with self._adapted(group[0].adapter):
                for work in group:
                    logits[id(work)] = self._after(work.seat, work.ids, max(1, work.wanted))
        asked = [logits[id(work)] for work in works if work.wanted]
        return torch.cat(asked).float() if asked else torch.empty(0)

    def read(self, rows: Sequence[Tokens], prompts: Sequence[int], shared: int) -> list[Read]:
        """Seats that hold the first `prompts` tokens of each row, as `PlainPass.read` gives them."""
        if shared and self._start is None:
            self._start = self.open(shared)
            self._after(self._start, rows[0].ids[:shared], 1)
        return [self._scored(row, length) for row, length in zip(rows, prompts, strict=True)]

    def _scored(self, row: Tokens, length: int) -> Read:
        """The prompt is read once; the reply goes on from a copy of it, the expected answer from itself."""
        read = self.open(length) if self._start is None else copy.deepcopy(self._start)
        logits = self._after(read, row.ids[read.length : length], 1)
        seat = copy.deepcopy(read) if self._beside is None else self._beside.seat(read.cache, length)
        expected, size = row.ids[length:], max(1, LOGITS // logits.shape[1])
        if not expected:
            return Read(seat, logits[0].float(), None)
        found = [self._logprobs(logits, expected[:1])]
        for start in range(0, len(expected) - 1, size):
            ids = expected[start:-1][:size]
            found.append(self._logprobs(self._after(read, ids, len(ids)), expected[start + 1 :][:size]))
        return Read(seat, logits[0].float(), -float(torch.cat(found).mean()))

    def _logprobs(self, logits: Tensor, targets: Sequence[int]) -> Tensor:
        """Log-probabilities (n,) of tokens, each predicted by its row of logits (n, V)."""
        states = torch.arange(len(targets), device=self.device)
        return of_logits(logits, states, torch.tensor(targets, device=self.device)).logprobs

    def _after(self, seat: CacheSeat, ids: Sequence[int], keep: int) -> Tensor:
        """Logits (keep, V) of the last `keep` of these ids, which the seat holds afterwards."""
        places = torch.arange(seat.length, seat.length + len(ids), device=self.device)[None]
        given = {"input_ids": torch.tensor([ids], device=self.device), "position_ids": places}
        output = self.model(**given, past_key_values=seat.cache, use_cache=True, logits_to_keep=keep)
        seat.length += len(ids)
        return output.logits[0, -keep:]

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
