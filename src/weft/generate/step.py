"""One step of the serving pass laid out: which flat rows are whose, what each sees, and which adapters apply where.

Rows that answer come first, arena by arena; then short pieces of prompts, which share the stack of adapters with them;
then long pieces, those of one adapter together, which have it to themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.generate.arenas import Arena, Seat
from weft.generate.stack import Deal
from weft.generate.updates import HEAD, Key, ServedAdapter
from weft.generate.work import Work

if TYPE_CHECKING:
    from weft.generate.passes import DecoderPass

LONG = 48
"""An adapter with so many rows is applied on its own: others would get as many places in their slots."""
LOWEST = -1e30
"""Added to the score of what must not be seen. Finite, for infinities are slow."""


class _Table(NamedTuple):
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


class _Span(NamedTuple):
    """Tokens of one adapter, applied on its own."""

    where: slice | Tensor
    adapter: ServedAdapter


class StepLayout:
    """One step's layout: arenas first, then short pieces of prompts, then long ones; and what applies to which rows."""

    def __init__(self, owner: DecoderPass, works: Sequence[Work]) -> None:
        self.owner, self.scale, device = owner, owner.size**-0.5, owner.device
        self.group = owner.width // owner.kept
        for work in works:
            if work.answering:
                owner.arenas.settle(work.seat)
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
        asking = [i for i, work in enumerate(works) if work.asks]
        keep = last[asking]
        whole = len(keep) == len(self.flat) and bool((keep == np.arange(len(keep))).all())
        self.keep = None if whole else torch.from_numpy(keep).to(device)
        self.asking = [works[i] for i in asking]
        self.tables = self._tables()
        self.pieces = [self._piece(i) for i, work in enumerate(self.works) if not work.answering]
        self.deal: Deal | None = None
        self.spans: list[_Span] = []
        self._share()

    # What is seen.

    def _tables(self) -> list[_Table]:
        tables, at = [], 0
        while at < len(self.works) and self.works[at].answering:
            arena = self.works[at].seat.arena
            assert arena is not None
            tables.append(self._table(arena, at, at + len(arena.seats)))
            at += len(arena.seats)
        return tables

    def _table(self, arena: Arena, start: int, stop: int) -> _Table:
        owner, device = self.owner, self.owner.device
        kept, size, room = owner.kept, owner.size, arena.room
        held = np.array([seat.length for seat in arena.seats])
        # All places of the arena: a stretch of them is not contiguous, and some products would copy it first.
        hidden = np.where(np.arange(room) > held[:, None], np.float32(LOWEST), np.float32(0)).repeat(kept, 0)
        rows = np.arange(len(held) * kept * size).reshape(len(held), -1)
        keys = (rows * room + held[:, None]).ravel()
        values = (np.arange(len(held) * kept).reshape(len(held), -1) * room + held[:, None]).ravel()
        return _Table(
            arena, start, stop,
            torch.from_numpy(hidden[:, None]).to(device, owner.dtype),
            torch.from_numpy(keys).to(device), torch.from_numpy(values).to(device),
        )  # fmt: skip

    def _piece(self, place: int) -> _Piece:
        start, stop = self.bounds[place]
        seat, new = self.works[place].seat, stop - start
        hidden = None
        if new > 1:
            seen = np.arange(seat.length + new) > np.arange(seat.length, seat.length + new)[:, None]
            mask = np.tile(np.where(seen, np.float32(LOWEST), np.float32(0)), (self.group, 1))
            hidden = torch.from_numpy(mask).to(self.owner.device, self.owner.dtype)
        return _Piece(seat, start, stop, hidden)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (T, H, D), k and v (T, K, D) → (T, H · D), the new keys and values kept."""
        parts = [self._over_table(layer, table, q, k, v) for table in self.tables]
        parts += [self._over_piece(layer, piece, q, k, v) for piece in self.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _over_table(self, layer: int, table: _Table, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        arena, rows, size = table.arena, slice(table.start, table.stop), self.owner.size
        keys, values, n = arena.keys[layer], arena.values[layer], table.stop - table.start
        keys.view(-1).index_copy_(0, table.keys, k[rows].reshape(-1))
        values.view(-1, size).index_copy_(0, table.values, v[rows].reshape(-1, size))
        asked = (q[rows] * self.scale).view(n * self.owner.kept, self.group, size)
        scores = torch.bmm(asked, keys[:n].flatten(0, 1)).add_(table.hidden)
        out = torch.bmm(scores.softmax(-1), values[:n].flatten(0, 1))
        return out.view(n, -1)

    def _over_piece(self, layer: int, piece: _Piece, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert piece.seat.reading is not None
        rows, kept, size = slice(piece.start, piece.stop), self.owner.kept, self.owner.size
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

    # What adapts.

    def _share(self) -> None:
        """Decide which tokens go through the stack, and which adapters are applied on their own."""
        short = [work.answering or len(work.ids) < LONG for work in self.works]
        end = short.index(False) if False in short else len(short)
        self._share_short(end)
        at = end
        while at < len(self.works):
            adapter, stop = self.works[at].adapter, at + 1
            while stop < len(self.works) and self.works[stop].adapter is adapter:
                stop += 1
            if adapter is not None:
                self.spans.append(_Span(slice(self.bounds[at][0], self.bounds[stop - 1][1]), adapter))
            at = stop

    def _share_short(self, count: int) -> None:
        """The first `count` works: one adapter for all needs no slots; DoRA and busy adapters have none either."""
        adapters = [work.adapter for work in self.works[:count]]
        kinds = {adapter.identity: adapter for adapter in adapters if adapter is not None}
        if not kinds:
            return
        if len(kinds) == 1 and None not in adapters:
            self.spans.append(_Span(slice(0, self.bounds[count - 1][1]), next(iter(kinds.values()))))
            return
        owners = [work.adapter for work in self.works[:count] for _ in work.ids]
        rows = Counter(None if owner is None else owner.identity for owner in owners)
        alone = {name for name, adapter in kinds.items() if adapter.dora or rows[name] >= LONG}
        dealt = [None if owner is None or owner.identity in alone else owner for owner in owners]
        if any(dealt):
            self.deal = self.owner.stack.deal(dealt)
        for name in alone:
            where = torch.tensor([row for row, owner in enumerate(owners) if owner and owner.identity == name])
            self.spans.append(_Span(where.to(self.owner.device), kinds[name]))

    def adapt(self, key: Key, x: Tensor, y: Tensor) -> None:
        """Turn y, the base's product `key` of x, into what each row's adapter makes of it, in place."""
        if self.deal is not None:
            self.owner.stack.add(key, x, y, self.deal)
        for where, adapter in self.spans:
            if (update := adapter.updates.get(key)) is None:
                continue
            if isinstance(where, slice):
                update.add(x[where], y[where], self.owner.products[key])
            else:
                own = y[where]
                update.add(x[where], own, self.owner.products[key])
                y[where] = own

    def place_rows(self, x: Tensor) -> None:
        """Put the vectors of adapters' own tokens into the embedded ids, in place."""
        for work, (start, stop) in zip(self.works, self.bounds, strict=True):
            adapter = work.adapter
            if adapter is None or adapter.rows is None or adapter.slots is None or not adapter.tied:
                continue
            slots = adapter.slots[self.flat[start:stop]]
            hits = (slots >= 0).nonzero()[0]
            if len(hits):
                x[torch.from_numpy(hits + start)] = adapter.rows[torch.from_numpy(slots[hits])]

    def headed(self, x: Tensor, logits: Tensor) -> Tensor:
        """Logits of the asking rows, in place, with what their adapters change in the output head: x (n, W)."""
        asked: dict[str, tuple[ServedAdapter, list[int]]] = {}
        for row, work in enumerate(self.asking):
            if work.adapter is not None:
                asked.setdefault(work.adapter.identity, (work.adapter, []))[1].append(row)
        for adapter, rows in asked.values():
            update = adapter.updates.get(HEAD)
            if update is None and adapter.rows is None:
                continue
            where = torch.tensor(rows, device=logits.device)
            own, states = logits[where], x[where]
            if update is not None:
                update.add(states, own, self.owner.products[HEAD])
            if adapter.rows is not None and adapter.tokens is not None:
                own.index_copy_(1, adapter.tokens, states @ adapter.rows.T)
            logits[where] = own
        return logits


def _order(work: Work) -> tuple[int, int, int, str]:
    """Arenas by room and slot; short pieces; long ones, those of one adapter together."""
    if work.answering:
        assert work.seat.arena is not None
        return 0, work.seat.arena.room, work.seat.slot, ""
    if len(work.ids) < LONG:
        return 1, 0, 0, ""
    return 2, 0, 0, "" if work.adapter is None else work.adapter.identity
