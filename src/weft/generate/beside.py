"""Rows of a model of transformers side by side: one pass per arena and step, instead of one per row.

The model is told each row's place and what it may see, and finds keys and values where the compact family has them. Not
every model obeys (ALiBi, recurrences, layers that keep something else), so each is tried once on random tokens; a
window that cuts into the rows rules it out too. Those go on in caches of their own (`general.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from weft.forest.general import allowed_error, windows
from weft.generate.arenas import Arenas, Block, Seat
from weft.generate.step import StepLayout, Table
from weft.generate.work import Work

_TRIED = "weft_goes_side_by_side"


class Beside:
    """Rows that were read, and go on together."""

    def __init__(self, model: Any, context: int) -> None:
        self._model, self._context = model, context
        self._arenas: Arenas | None = None

    def seat(self, cache: Any, length: int) -> Seat:
        """A row that holds a copy of the first `length` tokens of what `cache` has of one row."""
        keys = torch.stack([layer.keys[0, :, :length].transpose(1, 2) for layer in cache.layers])
        values = torch.stack([layer.values[0, :, :length] for layer in cache.layers])
        if self._arenas is None:
            self._arenas = Arenas.of(Block(keys, values), self._context)
        return self._arenas.seated(Block(keys, values))

    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (works, V) behind one more token of every row."""
        assert self._arenas is not None, "rows are read before they go on"
        step = StepLayout(self._arenas, 1, works)
        logits = torch.cat([self._over(step, table) for table in step.tables])
        for work in works:
            work.seat.length += 1
        return logits if step.keep is None else logits[step.keep]

    def close(self, seat: Seat) -> None:
        """Let go what the seat holds."""
        assert self._arenas is not None
        self._arenas.close(seat)

    def _over(self, step: StepLayout, table: Table) -> Tensor:
        rows = slice(table.start, table.stop)
        seen = table.hidden.view(table.stop - table.start, -1, 1, table.arena.room)[:, :1] == 0
        if self._model.config._attn_implementation == "eager":  # which adds it to the scores
            seen = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)
        given = {"input_ids": step.ids[rows, None], "position_ids": step.positions[rows, None], "attention_mask": seen}
        return self._model(**given, past_key_values=_Held(step, table), use_cache=True).logits[:, -1]


class _Held(Cache):
    """What the model takes for its cache."""

    def __init__(self, step: StepLayout, table: Table) -> None:
        super().__init__(layers=[])
        self._step, self._table = step, table

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Keeps keys and values (n, K, 1, D); returns all of the rows', (n, K, room, D)."""
        keys, values = self._step.stored(layer_idx, self._table, key_states[:, :, 0], value_states[:, :, 0])
        return keys.transpose(2, 3), values


def go_beside(model: nn.Module, reach: int) -> bool:
    """Whether rows of `model` of at most `reach` tokens may go side by side."""
    if any(window < reach for window in windows(model)):
        return False
    if not hasattr(model, _TRIED):
        setattr(model, _TRIED, _answers_alike(model))
    return getattr(model, _TRIED)


@torch.inference_mode()
def _answers_alike(model: Any) -> bool:
    device = next(model.parameters()).device
    words = min(model.get_output_embeddings().weight.shape[0], 10_000)
    ids = torch.randint(0, words, (2, 12), generator=torch.Generator().manual_seed(0)).to(device)
    beside, works, expected = Beside(model, 16), [], []
    try:
        with torch.autocast(device.type, enabled=False):
            for row in (ids[:1, :7], ids[1:]):
                cache = DynamicCache(config=model.config)
                model(input_ids=row[:, :-1], past_key_values=cache, use_cache=True)
                works.append(Work(beside.seat(cache, row.shape[1] - 1), None, row[0, -1:].tolist(), True, True))
                expected.append(model(input_ids=row, use_cache=False).logits[0, -1])
            found, truth = beside.forward(works).float(), torch.stack(expected).float()
    except Exception:  # a model that keeps something else fails in its own way
        return False
    return bool((found - truth).abs().max() <= allowed_error(model, truth))
