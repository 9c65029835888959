"""NEFTune: uniform noise on the embedded prompt and answer while learning (Jain et al. 2023, arXiv:2310.05914).

The noise has length `alpha / sqrt(L d)` times a uniform vector of [-1, 1]. L is the mean length of the rows of one
forward pass, where the paper takes each row's own: how rows lie in memory is not the affair of this file. It is drawn
from torch's generator, which checkpoints keep, so a resumed run draws the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weft.errors import ModelError
from weft.records import Tokens


@contextlib.contextmanager
def noisy_embeddings(model: nn.Module, alpha: float, rows: Sequence[Tokens]) -> Iterator[None]:
    """Inside, the input embeddings of `model` are noisy; with `alpha` 0 nothing happens and nothing is drawn.

    Raises ModelError where the forward pass inside did not go through the model's input embeddings.
    """
    if not alpha:
        yield
        return
    length = sum(len(row.ids) for row in rows) / len(rows)
    met = False

    def add(_: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        nonlocal met
        met = True
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * (alpha / math.sqrt(length * embedded.shape[-1]))

    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if not met:
        raise ModelError(
            f"--neftune-alpha: a {type(model).__name__} does not let its embeddings be changed. Leave it out."
        )
