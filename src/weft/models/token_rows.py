"""Rows of the vocabulary that learn, where all others stay frozen: those of an end token never learned, or of the
words that a small base knows too little.

    tied       one vector per token, in the input embeddings and in the output head alike
    not tied   the vector of the output head alone

PEFT's `trainable_token_indices` (huggingface/peft 0.21, `tuners/trainable_tokens`) means the same: rows are replaced,
not added to. Vectors are float32 and begin as the base has them. Files are the affair of `lora_files.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.errors import UsageError


class _Rows(nn.Module):
    """A table of vectors (V, W), `rows` (K, W) of which are replaced at `tokens`."""

    def __init__(self, base: nn.Module, tokens: Sequence[int], rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base  # before the rows: whoever asks for the first matrix means the base's
        self.rows = rows
        self.tokens = tuple(tokens)
        self.enabled = True
        self.training = base.training
        self._slots: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen table: its shape and number format are what others ask for."""
        return self.base.weight  # type: ignore[return-value]

    def places(self) -> Tensor:
        """The tokens (K,) on the table's device."""
        return torch.tensor(self.tokens, device=self.weight.device)

    def slots(self) -> Tensor:
        """(V,) of each token the row that replaces its own, or -1."""
        if self._slots is None or self._slots.device != self.weight.device:
            self._slots = torch.full((len(self.weight),), -1, device=self.weight.device)
            self._slots[self.places()] = torch.arange(len(self.tokens), device=self.weight.device)
        return self._slots

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The plain module with the rows in its table."""
        self.weight[self.places()] = self.rows.to(self.weight.dtype)
        return self.base


class RowEmbedding(_Rows):
    """Input embeddings with some rows of their own."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) → (..., W)."""
        embedded = self.base(ids)
        if not self.enabled:
            return embedded
        slots = self.slots()[ids]
        # Some families scale within their embedding; the rows are of the table, so they are scaled alike.
        rows = self.rows * getattr(self.base, "embed_scale", 1.0)
        own = functional.embedding(slots.clamp_min(0), rows.to(embedded.dtype))
        return torch.where(slots[..., None] >= 0, own, embedded)


class RowHead(_Rows):
    """An output head with some rows of its own."""

    @property
    def table(self) -> Tensor:
        """The whole table (V, W) with the rows in it, in the base's number format; gradients reach the rows."""
        return self.weight.detach().index_copy(0, self.places(), self.rows.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., W) → logits (..., V)."""
        logits = self.base(x)
        if not self.enabled:
            return logits
        own = functional.linear(x, self.rows.to(x.dtype)).to(logits.dtype)
        # In place: a linear layer's backward pass does not look at its own output.
        return logits.index_copy_(-1, self.places(), own)


@dataclass(frozen=True)
class Vocabulary:
    """Where a model keeps its tokens' vectors. Names are those of the modules."""

    inputs: tuple[str, nn.Module]
    head: tuple[str, nn.Module]

    @property
    def tied(self) -> bool:
        return self.inputs[1].weight is self.head[1].weight

    @property
    def ending(self) -> str:
        """The name under which the rows that say a token are kept: the head's, or the inputs' where both are one."""
        return self.inputs[0] if self.tied else self.head[0]

    @property
    def size(self) -> tuple[int, int]:
        """(V, W)."""
        return tuple(self.head[1].weight.shape)  # type: ignore[return-value]


def vocabulary(model: nn.Module) -> Vocabulary | None:
    """The tables of `model`, or None where rows of them cannot learn: no plain tables, or a head with a bias."""
    found = []
    for getter, kind in (("get_input_embeddings", nn.Embedding), ("get_output_embeddings", nn.Linear)):
        get = getattr(model, getter, None)
        module = get() if callable(get) else None
        if not isinstance(module, kind) or getattr(module, "bias", None) is not None:
            return None
        found.append((next(name for name, other in model.named_modules() if other is module), module))
    tables = Vocabulary(*found)
    return tables if tables.inputs[1].weight.shape == tables.head[1].weight.shape else None


def require_vocabulary(model: nn.Module) -> Vocabulary:
    """The tables of `model`. Raises UsageError where rows of them could not be carried in an adapter."""
    tables = vocabulary(model)
    if tables is None:
        raise UsageError(
            f"a {type(model).__name__} with this output layer keeps no row of plain weights for a token, so none can "
            "be trained (--train-end-token, --train-tokens) and carried in an adapter. Train with --full, or take "
            "another base."
        )
    return tables


def learn_rows(model: nn.Module, tables: Vocabulary, tokens: Sequence[int]) -> nn.Parameter:
    """Let the vectors that say `tokens` learn, in place; returns them, (K, W), as the base has them."""
    rows = tables.head[1].weight.detach()[torch.tensor(tokens)].float().clone()  # type: ignore[index]
    parameter = nn.Parameter(rows)
    put_rows(model, tables, tokens, parameter)
    return parameter


def put_rows(model: nn.Module, tables: Vocabulary, tokens: Sequence[int], rows: nn.Parameter) -> None:
    """Put `rows` (K, W) into the tables that say `tokens`, in place."""
    name, head = tables.head
    _replace(model, name, RowHead(head, tokens, rows))
    if tables.tied:
        name, inputs = tables.inputs
        _replace(model, name, RowEmbedding(inputs, tokens, rows))


def tables_with_rows(model: nn.Module) -> dict[str, _Rows]:
    """The modules with rows of their own, by name; where both tables share them, the inputs come first."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, _Rows)}
    return dict(sorted(found.items(), key=lambda item: isinstance(item[1], RowHead)))


def saved_rows(model: nn.Module) -> Mapping[str, tuple[tuple[int, ...], Tensor]]:
    """Tokens and rows (K, W) by the name under which an adapter's file has them; empty where there are none."""
    for name, module in tables_with_rows(model).items():
        return {name: (module.tokens, module.rows.detach())}
    return {}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
