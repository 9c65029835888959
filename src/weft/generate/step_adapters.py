"""Which adapters apply to which rows of a step, and their application.

Rows that answer and short pieces of prompts share the stack of adapters (`stack.py`); an adapter with many rows, the
only one of a step, and DoRA are applied on their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weft.generate.stack import Deal, Stack
from weft.generate.step import LONG, StepLayout
from weft.generate.updates import HEAD, Key, Product, ServedAdapter


class _Span(NamedTuple):
    """Tokens of one adapter, applied on its own."""

    where: slice | Tensor
    adapter: ServedAdapter


class StepAdapters:
    """What adapts in one step. `products`: every product of the model that can be adapted, the head too."""

    def __init__(self, step: StepLayout, stack: Stack, products: Mapping[Key, Product]) -> None:
        self.stack, self.products, self.device = stack, products, step.shape.device
        self.works, self.bounds, self.flat, self.asking = step.works, step.bounds, step.flat, step.asking
        self.deal: Deal | None = None
        self.spans: list[_Span] = []
        self._share()

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
            self.deal = self.stack.deal(dealt)
        for name in alone:
            where = torch.tensor([row for row, owner in enumerate(owners) if owner and owner.identity == name])
            self.spans.append(_Span(where.to(self.device), kinds[name]))

    def adapt(self, key: Key, x: Tensor, y: Tensor) -> None:
        """Turn y, the base's product `key` of x, into what each row's adapter makes of it, in place."""
        if self.deal is not None:
            self.stack.add(key, x, y, self.deal)
        for where, adapter in self.spans:
            if (update := adapter.updates.get(key)) is None:
                continue
            if isinstance(where, slice):
                update.add(x[where], y[where], self.products[key])
            else:
                own = y[where]
                update.add(x[where], own, self.products[key])
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
                update.add(states, own, self.products[HEAD])
            if adapter.rows is not None and adapter.tokens is not None:
                own.index_copy_(1, adapter.tokens, states @ adapter.rows.T)
            logits[where] = own
        return logits
