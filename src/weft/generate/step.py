"""One step laid out: which flat rows are whose, and what each sees.

Rows that answer come first, arena by arena; then short pieces of prompts; then long ones, those of one adapter together
(`step_adapters.py` says what applies to which).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.generate.arenas import Arena, Arenas, Seat
from weft.generate.work import Work

LONG = 48
"""An adapter with so many rows is applied on its own: others would get as many places in their slots."""
LOWEST = -1e30
"""Added to the score of what must not be seen. Finite, for infinities are slow."""


class Table(NamedTuple):
    """The rows of one arena in a step, which are rows `start` to `stop` of the flat tokens."""

    arena: Arena
    start: int
    stop: int
    hidden: Tensor
    """(n · K, 1, room): added to scores."""
    keys: Tensor
    """Where the new keys go in a layer's flat table: (n · K · D,)."""
    values: Tensor
    """The same of values, as rows of D numbers: (n · K,)."""


class _Piece(NamedTuple):
    """A stretch of a prompt, which is rows `start` to `stop` of the flat tokens."""

    seat: Seat
    start: int
    stop: int
    hidden: Tensor | None
    """(group · (stop - start), places): added to scores; None for a single token."""


class StepLayout:
    """One step's layout, and its attention. `group`: query heads of one key head."""

    def __init__(self, arenas: Arenas, group: int, works: Sequence[Work]) -> None:
        self.shape, self.group, self.scale = arenas.shape, group, arenas.shape.width**-0.5
        device = self.shape.device
        for work in works:
            if work.answering:
                arenas.settle(work.seat)
        order = sorted(range(len(works)), key=lambda i: _order(works[i]))
        self.works = [works[i] for i in order]
        lengths = [len(work.ids) for work in self.works]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        self.flat = np.concatenate([np.asarray(work.ids, np.int64) for work in self.works])
        self.bounds = [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        places = [np.arange(w.seat.length, w.seat.length + n) for w, n in zip(self.works, lengths, strict=True)]
        self.ids = torch.from_numpy(self.flat).to(device)
        self.positions = torch.from_numpy(np.concatenate(places)).to(device)
        last = np.empty(len(works), np.int64)
        last[order] = ends - 1
        keep = last[[i for i, work in enumerate(works) if work.asks]]
        if any(work.scores for work in works):
            keep = np.concatenate([np.arange(1 - work.wanted, 1) + at for work, at in zip(works, last, strict=True)])
        whole = len(keep) == len(self.flat) and bool((keep == np.arange(len(keep))).all())
        self.keep = None if whole else torch.from_numpy(keep).to(device)
        self.asking = [work for work in works for _ in range(work.wanted)]
        self.tables = self._tables()
        self.pieces = [self._piece(i) for i, work in enumerate(self.works) if not work.answering]

    def _tables(self) -> list[Table]:
        tables, at = [], 0
        while at < len(self.works) and self.works[at].answering:
            arena = self.works[at].seat.arena
            assert arena is not None
            tables.append(self._table(arena, at, at + len(arena.seats)))
            at += len(arena.seats)
        return tables

    def _table(self, arena: Arena, start: int, stop: int) -> Table:
        _, kept, size, dtype, device = self.shape
        room = arena.room
        held = np.array([seat.length for seat in arena.seats])
        # All places of the arena: a stretch of them is not contiguous, and some products would copy it first.
        hidden = np.where(np.arange(room) > held[:, None], np.float32(LOWEST), np.float32(0)).repeat(kept, 0)
        rows = np.arange(len(held) * kept * size).reshape(len(held), -1)
        keys = (rows * room + held[:, None]).ravel()
        values = (np.arange(len(held) * kept).reshape(len(held), -1) * room + held[:, None]).ravel()
        return Table(
            arena, start, stop,
            torch.from_numpy(hidden[:, None]).to(device, dtype),
            torch.from_numpy(keys).to(device), torch.from_numpy(values).to(device),
        )  # fmt: skip

    def _piece(self, place: int) -> _Piece:
        start, stop = self.bounds[place]
        seat, new = self.works[place].seat, stop - start
        hidden = None
        if new > 1:
            seen = np.arange(seat.length + new) > np.arange(seat.length, seat.length + new)[:, None]
            mask = np.tile(np.where(seen, np.float32(LOWEST), np.float32(0)), (self.group, 1))
            hidden = torch.from_numpy(mask).to(self.shape.device, self.shape.dtype)
        return _Piece(seat, start, stop, hidden)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (T, H, D), k and v (T, K, D) → (T, H · D), the new keys and values kept."""
        parts = [self._over_table(layer, table, q, k, v) for table in self.tables]
        parts += [self._over_piece(layer, piece, q, k, v) for piece in self.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def stored(self, layer: int, table: Table, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep new keys and values (n, K, D) of a table's rows; returns all, (n, K, D, room) and (n, K, room, D)."""
        keys, values, n = table.arena.keys[layer], table.arena.values[layer], table.stop - table.start
        keys.view(-1).index_copy_(0, table.keys, k.reshape(-1))
        values.view(-1, self.shape.width).index_copy_(0, table.values, v.reshape(-1, self.shape.width))
        return keys[:n], values[:n]

    def _over_table(self, layer: int, table: Table, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, n = slice(table.start, table.stop), table.stop - table.start
        keys, values = self.stored(layer, table, k[rows], v[rows])
        asked = (q[rows] * self.scale).view(n * self.shape.heads, self.group, -1)
        scores = torch.bmm(asked, keys.flatten(0, 1)).add_(table.hidden)
        return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(n, -1)

    def _over_piece(self, layer: int, piece: _Piece, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert piece.seat.reading is not None
        rows, kept, size = slice(piece.start, piece.stop), self.shape.heads, self.shape.width
        new, held = piece.stop - piece.start, piece.seat.length
        keys, values = piece.seat.reading.keys[layer], piece.seat.reading.values[layer]
        keys[:, :, held : held + new] = k[rows].permute(1, 2, 0)
        values[:, held : held + new] = v[rows].transpose(0, 1)
        asked = q[rows].view(new, kept, self.group, size).permute(1, 2, 0, 3).reshape(kept, -1, size)
        seen = keys[:, :, : held + new]
        if piece.hidden is None:
            scores = torch.bmm(asked, seen).mul_(self.scale)
        else:
            scores = torch.baddbmm(piece.hidden, asked, seen, alpha=self.scale)
        out = torch.bmm(scores.softmax(-1), values[:, : held + new])
        return out.view(kept, self.group, new, size).permute(2, 0, 1, 3).reshape(new, -1)


def _order(work: Work) -> tuple[int, int, int, str]:
    """Arenas by room and slot; short pieces; long ones, those of one adapter together."""
    if work.answering:
        assert work.seat.arena is not None
        return 0, work.seat.arena.room, work.seat.slot, ""
    if len(work.ids) < LONG:
        return 1, 0, 0, ""
    return 2, 0, 0, "" if work.adapter is None else work.adapter.identity
