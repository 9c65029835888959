"""A `Decoder` as it stands, an adapter beside its layers or not, in 4 bits or not: prompts read, then token by token.

Prompts are read as one forest, in the pass that training learns by (`forest/`): each beginning once, and the loss of an
expected answer falls out on the way. Replies go on in arenas, as served ones do. Nothing in the model is changed, so
that training can go on with it; `passes.py`, to which a base belongs for good, joins its matrices and is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from weft.forest.attention import attend, plan
from weft.forest.build import Forest, plant
from weft.forest.logprobs import of_states
from weft.generate.arenas import Arenas, Block, Seat
from weft.generate.step import StepLayout
from weft.generate.work import Work
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.records import Tokens

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (T, K, D)."""


class Read(NamedTuple):
    """A prompt that was read."""

    seat: Any
    """Its keys and values."""
    logits: Tensor
    """(V,) float32, behind its last token."""
    log_loss: float | None
    """Mean nats per learned token; None where nothing was to be learned."""


class PlainPass:
    """What `engine.py` asks of a model: `read`, `forward`, `close`."""

    def __init__(self, base: Base) -> None:
        self.model = cast(Decoder, base.model)
        self.device, self._context = base.device, base.context
        config = self.model.config
        self._group = config.num_attention_heads // config.num_key_value_heads
        number = self.model.model.embed_tokens.weight.itemsize
        self.token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * number
        self._arenas: Arenas | None = None  # made in the number format that the first keys come in
        self._start: Layers = []

    def read(self, rows: Sequence[Tokens], prompts: Sequence[int], shared: int) -> list[Read]:
        """Seats that hold the first `prompts` tokens of each row.

        `shared`: so many tokens, at least MIN_SAVED or none, all rows of all calls begin with. Every forest shares
        them, so they lie first in it; they are read at the first call.
        """
        forest = plant(rows)
        ends = [places[length - 1] for places, length in zip(forest.places, prompts, strict=True)]
        keep, where = np.unique(np.concatenate([forest.sources, ends]), return_inverse=True)
        seeing = _Seeing(forest, keep, self._start, self.device)
        new = seeing.known
        arrays = forest.ids[new:], forest.positions[new:], keep - new, where, forest.targets
        ids, positions, kept, states, targets = (torch.from_numpy(array).to(self.device) for array in arrays)
        hidden = self.model.states(ids, positions, seeing, kept)
        losses: list[float | None] = [None] * len(rows)
        if any(forest.counts):
            found = of_states(self.model, hidden, states[: len(targets)], targets).logprobs.split(forest.counts)
            losses = [-float(own.mean()) if len(own) else None for own in found]
        logits = self.model.lm_head(hidden[states[len(targets) :]]).float()
        if not self._start:
            self._start = [(k[:shared].clone(), v[:shared].clone()) for k, v in seeing.layers]
        seats = [self._seat(seeing.layers, at[:length]) for at, length in zip(forest.places, prompts, strict=True)]
        return [Read(*told) for told in zip(seats, logits, losses, strict=True)]

    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (works, V) float32 behind one more token of every row that was read and not closed."""
        assert self._arenas is not None, "rows are read before they go on"
        step = StepLayout(self._arenas, self._group, works)

        def seen(layer: int, q: Tensor, k: Tensor, v: Tensor, kept: bool) -> Tensor:
            return step.attend(layer, q, k, v)

        logits = self.model.lm_head(self.model.states(step.ids, step.positions, seen))
        for work in works:
            work.seat.length += 1
        return (logits if step.keep is None else logits[step.keep]).float()

    def close(self, seat: Seat) -> None:
        """Let go what the seat holds."""
        assert self._arenas is not None
        self._arenas.close(seat)

    def _seat(self, layers: Layers, places: np.ndarray) -> Seat:
        """A row of an arena that holds what lies at these places."""
        at = torch.from_numpy(places).to(self.device)
        keys = torch.stack([k[at].permute(1, 2, 0) for k, _ in layers])
        block = Block(keys, torch.stack([v[at].transpose(0, 1) for _, v in layers]))
        if self._arenas is None:
            self._arenas = Arenas.of(block, self._context)
        return self._arenas.seated(block)


class _Seeing:
    """`Attend` over a forest whose first tokens were read before; remembers each layer's keys and values."""

    def __init__(self, forest: Forest, keep: np.ndarray, start: Layers, device: torch.device) -> None:
        self.start, self.layers = start, Layers()
        self.known = len(start[0][0]) if start else 0
        self.every = plan(forest, np.arange(self.known, len(forest.ids)), device)
        self.kept = plan(forest, keep, device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kept: bool) -> Tensor:
        if self.known:
            k, v = (torch.cat([known, new]) for known, new in zip(self.start[layer], (k, v), strict=True))
        self.layers.append((k, v))
        return attend(q, k, v, self.kept if kept else self.every)
