"""weft as a contestant: the steps of `train/sft.py` and `train/dpo.py` by the very functions that they call.

Left out of both is what happens between steps: the run's folder, validation, checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.cell import (
    ALPHA,
    BATCHES,
    BETA,
    CLIP,
    LEARNING_RATE,
    RANK,
    TARGETS,
    Cell,
    Example,
    batch_of,
)
from benchmarks.peers.worker import Gate
from weft.generate.adapters import room_of
from weft.models import lora, precision
from weft.models.load import Base, load
from weft.models.lora_config import LoraConfig
from weft.models.lora_files import read_adapter
from weft.progress import Silent
from weft.records import Tokens
from weft.train import dpo, likelihood
from weft.train.batches import MICRO_TOKENS
from weft.train.crew import Crew, hands, shares
from weft.train.dpo import Pair
from weft.train.dpo_config import DpoConfig
from weft.train.learner import Learner
from weft.train.sft_config import SftConfig
from weft.train.sharded import Team, together

NUMBERS = {"fp32": "float32", "bf16": "bfloat16"}
"""A table's word → that of weft's `--precision`."""


class Ours:
    """Ready for its first step. `alone`: one process with all threads, where weft would take several of one thread."""

    def __init__(
        self,
        cell: Cell,
        made: list[Example],
        folder: Path,
        adapter: Path,
        gradient: Path | None,
        *,
        alone: bool = False,
    ) -> None:
        self.cell, self.gradient, self.examples, self.alone = cell, gradient, made, alone
        precision.settle()
        self.base = load(str(folder), device="cpu")
        self.config = _config(cell)
        room = room_of(self.base.model)
        self.learner = Learner(self.base, self.config)
        if cell.adapt != "full":
            _begin_at(self.base, read_adapter(adapter, room).layers)
        self.base.model.train()
        self.trained = {name: p for name, p in self.base.model.named_parameters() if p.requires_grad}
        self.pairs: dict[Tokens, Pair] = {}

    def run(self, gate: Gate) -> None:
        with precision.frozen_as(self.base.model, NUMBERS[self.cell.precision]):
            if isinstance(self.config, DpoConfig):
                every = [_pair(example) for step in range(BATCHES) for example in self._batch(step)]
                # The model as it starts is TRL's reference where an adapter is trained further.
                known = dpo.with_reference(self.base, every, MICRO_TOKENS, self.config, Silent())
                self.pairs = {pair.chosen: pair for pair in known}
            count = 1 if self.alone else hands(self.base.model, self.cell.batch)
            with together(self._learn, self.learner.parameters, count, self.base.model) as crew:
                self._loop(gate, crew)

    def _loop(self, gate: Gate, crew: Crew[float] | Team[float]) -> None:
        step = 0
        while True:
            gate.wait()
            rows = [_rows(example) for example in self._batch(step)]
            learned = sum(sum(row.learn) for row in rows)
            loss = sum(crew([(step, part, learned) for part in shares(rows, crew.count)]))
            kept = {name: p.grad.clone() for name, p in self.trained.items() if p.grad is not None} if step == 0 else {}
            self.learner.clip(CLIP)
            self.learner.step(LEARNING_RATE)
            gate.done(loss, len(rows), lambda kept=kept: self._save(kept))
            step += 1

    def _learn(self, step: int, part: Sequence[int], learned: int) -> float:
        """Add the gradient of these examples of a step; their part of the loss."""
        batch = self._batch(step)
        mine = [batch[i] for i in part]
        if isinstance(self.config, DpoConfig):
            pairs = [self.pairs[_pair(example).chosen] for example in mine]
            return dpo.add_gradient(self.base, pairs, len(batch), MICRO_TOKENS, self.config)[0]
        rows = [_rows(example) for example in mine]
        return likelihood.add_gradient(self.base, rows, learned, MICRO_TOKENS, self.config).loss

    def _batch(self, step: int) -> Sequence[Example]:
        return batch_of(self.examples, self.cell, step)

    def _save(self, kept: dict[str, Tensor]) -> None:
        if kept and self.gradient:
            from safetensors.torch import save_file

            save_file({name: tensor.float().contiguous() for name, tensor in kept.items()}, self.gradient)


def _config(cell: Cell) -> SftConfig | DpoConfig:
    """What every contestant has; the rest are weft's defaults, settled as far as a step asks for them."""
    told = {"precision": NUMBERS[cell.precision], "full": cell.adapt == "full"}
    if not told["full"]:
        told["lora"] = LoraConfig(r=RANK, alpha=ALPHA, dropout=0.0, targets=TARGETS[cell.adapt])
    return DpoConfig(beta=BETA, **told) if cell.method == "dpo" else SftConfig(**told)  # type: ignore[arg-type]


def _begin_at(base: Base, first: Mapping[str, Mapping[str, Tensor]]) -> None:
    """The adapter's numbers are those that all contestants begin with."""
    with torch.no_grad():
        for name, layer in lora.layers(base.model).items():
            for key, part in layer.parts().items():
                part.copy_(first[name][key])


def _rows(example: Example) -> Tokens:
    """The first row of an example: its answer, or with `dpo` the better one."""
    return _tokens(*example.rows[0])


def _pair(example: Example) -> Pair:
    chosen, rejected = example.rows
    return Pair(_tokens(*chosen), _tokens(*rejected))


def _tokens(ids: tuple[int, ...], begin: int) -> Tokens:
    return Tokens(ids, tuple(place >= begin for place in range(len(ids))))
