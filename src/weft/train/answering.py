"""A base in the middle of its training, as it answers: for looks at held-out examples, and for a reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from weft.models.load import Base
from weft.models.precision import numbers
from weft.train.tuning_config import TuningConfig


@contextlib.contextmanager
def only_answering(base: Base, config: TuningConfig) -> Iterator[None]:
    """Inside there is no gradient and no dropout; the arithmetic is that of training."""
    learning = base.model.training
    base.model.eval()
    with torch.no_grad(), numbers(base.model, config.precision):
        yield
    base.model.train(learning)
