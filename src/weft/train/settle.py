"""Every `auto` of a training becomes a value before it starts, each with the reason that the run says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import TypeVar

from weft.models import precision
from weft.models.load import Base
from weft.settings import Resolved
from weft.train import auto
from weft.train.ending import train_end_token
from weft.train.tuning_config import TuningConfig
from weft.train.vocabulary import train_tokens

C = TypeVar("C", bound=TuningConfig)


def settled(
    settings: Resolved[C],
    base: Base,
    train: Sized,
    learning_rate: Callable[[int, bool], tuple[float, str]],
    dropout: Callable[[int], tuple[float, str]] = auto.no_dropout,
    epochs: Callable[[int], tuple[int, str]] = auto.epochs,
) -> Resolved[C]:
    """The same settings with every `auto` resolved from the base and the number of training examples `train`.

    `learning_rate(parameters, full)`, `dropout(parameters)` and `epochs(examples)` are the method's own rules.
    """
    config = settings.config
    if config.learning_rate == "auto":
        rate, why = learning_rate(base.parameters, config.full)
        settings = settings.replace(why, learning_rate=rate)
    if config.lora.dropout == "auto":
        share, why = dropout(base.parameters)
        origin = settings.origins["lora"]
        settings = settings.replace(f"{origin}, {why}", lora={**config.lora.model_dump(), "dropout": share})
    if config.epochs == "auto":
        count, why = epochs(len(train))
        settings = settings.replace(why, epochs=count)
    if config.precision == "auto":
        settings = settings.replace(
            "auto: what the processor multiplies", precision=precision.for_training(base.device)
        )
    if config.max_tokens == "auto":
        settings = settings.replace(f"auto: the context of {base.name}", max_tokens=base.context)
    if config.train_tokens == "auto":
        chosen, why = train_tokens(base, config)
        settings = settings.replace(why, train_tokens=chosen)
    if config.train_end_token == "auto":
        needed, why = train_end_token(base, settings.config)
        settings = settings.replace(why, train_end_token="always" if needed else "never")
    if config.validate_every == "auto":
        every, why = auto.validate_every(math.ceil(len(train) / config.batch_size))
        settings = settings.replace(why, validate_every=every)
    return settings
