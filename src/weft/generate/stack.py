"""Many adapters in one product: rows are dealt to a slot per adapter, and all slots are multiplied together.

    x (T, in) → by slot (slots, n, in) · A (slots, in, r) · B (slots, r, out) → back to the rows, added to y

A slot has as many places as the busiest adapter has rows; the places left over cost a little and mean nothing. No row
ever meets another adapter's numbers. A product of several layers has an A of all of them side by side, but of each B
its own columns alone, cut into stretches of one width so that one product takes them all: the zeros beside them would
be most of what is read. The other way, one product over the columns of all adapters with the foreign ones masked,
multiplies by every adapter for every row. Adapters stay in their slots while the batch changes. Any rank and targets;
DoRA is applied on its own (`updates.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from weft.generate.updates import Key, Product, ServedAdapter


class Deal:
    """How the first rows of a step lie in slots: `places` has the place of each (rows,), `there` the row at each place
    (slots · n,), any row where a place is left over.
    """

    def __init__(self, slots: int, places: np.ndarray, there: np.ndarray, device: torch.device) -> None:
        self.rows, self.slots, self._each = len(places), slots, len(there) // slots
        self.there = torch.from_numpy(there).to(device)
        self._places, self._back = places, dict[int, Tensor]()

    def back(self, stretches: int) -> Tensor:
        """(rows · stretches,): where each row's columns lie among (slots, stretches, n) of them."""
        if stretches not in self._back:
            slots, places = np.divmod(self._places[:, None], self._each)
            back = (slots * stretches + np.arange(stretches)) * self._each + places
            self._back[stretches] = torch.from_numpy(back.ravel()).to(self.there.device)
        return self._back[stretches]


class _Sheet:
    """The slots of one product: down (slots, in, layers · rank), up (slots, stretches, rank, width)."""

    def __init__(self, product: Product, slots: int, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        self.bounds, self.rank = product.bounds, rank
        widths = [stop - start for start, stop in product.bounds]
        self.width = math.gcd(*widths)
        owners = [layer for layer, width in enumerate(widths) for _ in range(width // self.width)]
        self.stretches = len(owners)
        self.owners = torch.tensor(owners, device=device) if len(owners) > len(widths) else None
        self.down = torch.zeros(slots, product.inputs, len(widths) * rank, dtype=dtype, device=device)
        self.up = torch.zeros(slots, self.stretches, rank, self.width, dtype=dtype, device=device)

    def put(self, slot: int, adapter: ServedAdapter | None, key: Key) -> None:
        """Write the adapter's matrices, zeros where it has none."""
        self.down[slot] = 0
        self.up[slot] = 0
        update = None if adapter is None else adapter.updates.get(key)
        for place, part in {} if update is None else update.parts.items():
            at, (start, stop) = place * self.rank, self.bounds[place]
            self.down[slot, :, at : at + part.down.shape[1]] = part.down
            stretches = part.up.unflatten(1, (-1, self.width)).transpose(0, 1)
            self.up[slot, start // self.width : stop // self.width, : part.up.shape[0]] = stretches

    def add(self, x: Tensor, y: Tensor, deal: Deal) -> None:
        """y (rows, out) += the rows' own updates of x (rows, in), in place."""
        dealt = x.index_select(0, deal.there).view(deal.slots, -1, x.shape[1])
        inner = torch.bmm(dealt, self.down[: deal.slots]).unflatten(2, (-1, self.rank))
        if self.owners is not None:
            inner = inner.index_select(2, self.owners)
        inner = inner.transpose(1, 2).flatten(0, 1)
        change = torch.bmm(inner, self.up[: deal.slots].flatten(0, 1)).flatten(0, 1)
        y.view(-1, self.width).add_(change.index_select(0, deal.back(self.stretches)))


class Stack:
    """The adapters of a batch. `products`: every product of the model that can be adapted."""

    def __init__(self, products: Mapping[Key, Product], dtype: torch.dtype, device: torch.device) -> None:
        self._products, self._dtype, self._device = products, dtype, device
        self._members: dict[str | None, int] = {}  # identity → slot
        self._adapters: dict[str | None, ServedAdapter | None] = {}
        self._slots = self._rank = 0
        self._sheets: dict[Key, _Sheet] = {}

    def deal(self, owners: Sequence[ServedAdapter | None]) -> Deal:
        """Have the owners of these rows in slots (others may go), and say where each row lies."""
        names = [None if owner is None else owner.identity for owner in owners]
        self._hold(dict(zip(names, owners, strict=True)))
        slots = np.array([self._members[name] for name in names])
        order = np.argsort(slots, kind="stable")
        counts = np.bincount(slots)
        most = int(counts.max())
        first = np.concatenate([[0], counts.cumsum()[:-1]])
        ordered = slots[order]
        places = ordered * most + np.arange(len(order)) - first[ordered]
        there, place_of = np.zeros(len(counts) * most, np.int64), np.empty(len(order), np.int64)
        there[places], place_of[order] = order, places
        return Deal(len(counts), place_of, there, self._device)

    def add(self, key: Key, x: Tensor, y: Tensor, deal: Deal) -> None:
        """y (T, out) += what the adapters of its first rows add to product `key` of x (T, in), in place."""
        if (sheet := self._sheets.get(key)) is not None:
            sheet.add(x[: deal.rows], y[: deal.rows], deal)

    def _hold(self, needed: Mapping[str | None, ServedAdapter | None]) -> None:
        rank = max(adapter.rank for adapter in needed.values() if adapter is not None)
        newcomers = [name for name in needed if name not in self._members]
        high = max((slot for name, slot in self._members.items() if name in needed), default=0)
        sparse = high + 1 > 2 * len(needed)
        if rank > self._rank or len(needed) > self._slots or sparse or self._rank > 4 * rank:
            self._rebuild(needed, rank)
            return
        taken = {self._members[name] for name in needed if name in self._members}
        free = iter(slot for slot in range(self._slots) if slot not in taken)
        for name in newcomers:
            slot = next(free)
            for other in [other for other, held in self._members.items() if held == slot]:
                del self._members[other], self._adapters[other]
            self._put(name, needed[name], slot)

    def _rebuild(self, needed: Mapping[str | None, ServedAdapter | None], rank: int) -> None:
        self._members, self._adapters, self._sheets, self._rank = {}, {}, {}, rank
        self._slots = 1 << (len(needed) - 1).bit_length()
        for slot, (name, adapter) in enumerate(needed.items()):
            self._put(name, adapter, slot)

    def _put(self, name: str | None, adapter: ServedAdapter | None, slot: int) -> None:
        self._members[name], self._adapters[name] = slot, adapter
        for key in () if adapter is None else adapter.updates:
            if key not in self._sheets and key in self._products:
                self._sheets[key] = _Sheet(self._products[key], self._slots, self._rank, self._dtype, self._device)
        for key, sheet in self._sheets.items():
            sheet.put(slot, adapter, key)
