"""weft as a contestant: what `train/sft.py` and `train/dpo.py` do in one step, on weft's own model, adapter and loss.

Left out of both is what happens between steps: the run's folder, validation, checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.cell import BATCHES, BETA, CLIP, LEARNING_RATE, Cell, Example, batch_of, examples
from benchmarks.peers.worker import Gate
from weft.forest.logprobs import learned_logprobs
from weft.models import lora, precision
from weft.models.load import load
from weft.records import Tokens
from weft.train import losses
from weft.train.batches import MICRO_TOKENS, micro_batches

NUMBERS = {"fp32": "float32", "bf16": "bfloat16"}
"""A table's word → that of weft's `--precision`."""
Rows = list[Tokens]
"""What the model sees of one example: its answer, or with `dpo` both."""


class Ours:
    """Ready for its first step."""

    def __init__(self, cell: Cell, folder: Path, adapter: Path, gradient: Path | None) -> None:
        self.cell, self.gradient = cell, gradient
        precision.settle()
        self.model: nn.Module = load(str(folder), device="cpu").model
        if cell.adapt == "full":
            self.model.requires_grad_(True)
        else:
            lora.load_adapter(self.model, adapter, trainable=True)
        self.model.train()
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.examples = examples(cell)
        self.reference: dict[tuple[int, ...], Tensor] = {}

    def run(self, gate: Gate) -> None:
        with precision.frozen_as(self.model, NUMBERS[self.cell.precision]):
            if self.cell.method == "dpo":
                self.reference = self._references()
            self._loop(gate)

    def _loop(self, gate: Gate) -> None:
        step = 0
        while True:
            gate.wait()
            batch = [_rows(example) for example in batch_of(self.examples, self.cell, step)]
            loss = self._dpo(batch) if self.cell.method == "dpo" else self._sft(batch)
            kept = {name: p.grad.clone() for name, p in self.trained.items() if p.grad is not None} if step == 0 else {}
            nn.utils.clip_grad_norm_(list(self.trained.values()), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            gate.done(loss, len(batch), lambda kept=kept: self._save(kept))
            step += 1

    def _numbers(self) -> torch.autocast:
        return precision.numbers(self.model, NUMBERS[self.cell.precision])

    def _sft(self, batch: Sequence[Rows]) -> float:
        """Backward of the mean over all learned tokens of the step; returns the loss."""
        learned = sum(sum(row.learn) for rows in batch for row in rows)
        total = 0.0
        for part in micro_batches(batch, MICRO_TOKENS, _itself):
            with self._numbers():
                loss = losses.nll(learned_logprobs(self.model, _flat(part)), 1 / learned)
            loss.backward()
            total += float(loss.detach())
        return total

    def _dpo(self, batch: Sequence[Rows]) -> float:
        """Backward of the mean over the step's pairs; returns the loss."""
        total = 0.0
        for part in micro_batches(batch, MICRO_TOKENS, _itself):
            reference = torch.stack([self.reference[_key(rows)] for rows in part])
            with self._numbers():
                found = self._by_answer(part)
            each = losses.dpo(found[:, 0], found[:, 1], reference[:, 0], reference[:, 1], BETA)
            loss = each.sum() / len(batch)
            loss.backward()
            total += float(loss.detach())
        return total

    def _by_answer(self, part: Sequence[Rows]) -> Tensor:
        """Log-probability of each whole answer: (pairs, 2), chosen then rejected."""
        rows = _flat(part)
        counts = [sum(row.learn) for row in rows]
        return losses.per_leaf(learned_logprobs(self.model, rows), counts).view(len(part), 2)

    @torch.no_grad()
    def _references(self) -> dict[tuple[int, ...], Tensor]:
        """The model as it starts (TRL's reference where an adapter is trained further), computed once, as there."""
        found = {}
        for step in range(BATCHES):
            batch = [_rows(example) for example in batch_of(self.examples, self.cell, step)]
            for part in micro_batches(batch, MICRO_TOKENS, _itself):
                with self._numbers():
                    values = self._by_answer(part)
                found |= {_key(rows): value for rows, value in zip(part, values, strict=True)}
        return found

    def _save(self, kept: dict[str, Tensor]) -> None:
        if kept and self.gradient:
            from safetensors.torch import save_file

            save_file({name: tensor.float().contiguous() for name, tensor in kept.items()}, self.gradient)


def _rows(example: Example) -> Rows:
    return [Tokens(ids, tuple(place >= begin for place in range(len(ids)))) for ids, begin in example.rows]


def _itself(rows: Rows) -> Rows:
    return rows


def _flat(part: Sequence[Rows]) -> Rows:
    return [row for rows in part for row in rows]


def _key(rows: Rows) -> tuple[int, ...]:
    return rows[0].ids
