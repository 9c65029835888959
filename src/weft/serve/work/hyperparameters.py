"""The API's hyperparameters and `x_weft` → the Config of a method, and back to the numbers that a job shows.

| asked                       | means                                                                             |
|-----------------------------|-----------------------------------------------------------------------------------|
| n_epochs: N                 | N passes to the end, and the last step is published                                |
| n_epochs: auto              | weft's rule by the number of examples; stops early where validation gains nothing, |
|                             | and the best by validation is published                                            |
| batch_size: N, auto         | N; auto: weft's default                                                            |
| learning_rate_multiplier: X | X times weft's rate for the base; auto: 1                                           |
| beta: X, auto               | DPO's beta; auto: weft's default                                                    |
| x_weft                      | further keys of SftConfig or DpoConfig, under their own names                       |

With a number of epochs the best is published too where `x_weft` says how it is chosen, with a key of CHOOSING. Every
reply is learned where `x_weft` does not say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from weft.errors import SettingsError
from weft.settings import Resolved
from weft.train.dpo_config import DpoConfig
from weft.train.sft_config import SftConfig
from weft.train.tuning_config import TuningConfig

AUTO = "auto"
EPOCHS_KEPT = 3
"""Checkpoints that a job offers: those of its last epochs."""
CHOOSING = ("publish", "stop_on", "patience", "min_improvement")
"""Keys of `x_weft` that say how the best step is chosen: without them a number of epochs means the last."""
_TO_THE_END = 10**9
_OURS = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "beta"}
_KINDS: dict[str, type[TuningConfig]] = {"supervised": SftConfig, "dpo": DpoConfig}
_NOT_HERE = {
    "full": "a server swaps adapters over one base, and a whole model is none; train it with `weft train --full`",
    "keep_epochs": "a job keeps the adapters of its last three epochs",
}

Settle = Callable[[Resolved[Any]], Resolved[Any]]


def asked(method: str, hyperparameters: Mapping[str, Any], extension: Mapping[str, Any], seed: int) -> Resolved[Any]:
    """The settings of a job before anything is known of base and data. Raises SettingsError for what cannot be."""
    kind = _KINDS.get(method)
    if kind is None:
        raise SettingsError(f"method {method!r} cannot be trained here; use {' or '.join(map(repr, _KINDS))}.")
    given = {key: value for key, value in hyperparameters.items() if value not in (AUTO, None)}
    given.pop("learning_rate_multiplier", None)
    _refuse(given, extension, hyperparameters)
    values: dict[str, Any] = {"seed": seed}
    if kind is SftConfig:
        values["learn"] = "all"
    if "keep_epochs" in kind.model_fields:
        values["keep_epochs"] = EPOCHS_KEPT
    if "n_epochs" in given:
        values["patience"] = _TO_THE_END
        if not any(key in extension for key in CHOOSING):
            values["publish"] = "last"
    values |= {_OURS[key]: value for key, value in given.items()}
    values |= extension
    origins = {key: "default" for key in kind.model_fields}
    origins |= {key: "the job" for key in values} | {key: "x_weft" for key in extension}
    try:
        return Resolved(kind.model_validate(values), {key: origins[key] for key in kind.model_fields})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, flaw['loc']))}: {flaw['msg']}" for flaw in error.errors())
        raise SettingsError(f"the job's settings cannot be used: {said}.") from None


def settled(wanted: Resolved[Any], settle: Settle, hyperparameters: Mapping[str, Any]) -> Resolved[Any]:
    """`wanted` with every `auto` resolved by `settle`, the method's own, and the rate multiplied as asked."""
    ready = settle(wanted)
    factor = multiplier(hyperparameters)
    if factor == 1:
        return ready
    origin = f"{ready.origins['learning_rate']}; times {factor:g} as asked"
    return ready.replace(origin, learning_rate=float(ready.config.learning_rate) * factor)


def shown(config: TuningConfig, hyperparameters: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the job shows once they are known, in the API's names."""
    numbers: dict[str, float] = {
        "n_epochs": int(config.epochs),
        "batch_size": config.batch_size,
        "learning_rate_multiplier": multiplier(hyperparameters),
    }
    return numbers | ({"beta": config.beta} if isinstance(config, DpoConfig) else {})


def multiplier(hyperparameters: Mapping[str, Any]) -> float:
    """What the rate is multiplied by."""
    asked_for = hyperparameters.get("learning_rate_multiplier", AUTO)
    return 1.0 if asked_for in (AUTO, None) else float(asked_for)


def _refuse(given: Mapping[str, Any], extension: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> None:
    problems = [f"hyperparameter {key!r} is unknown to this method" for key in given if key not in _OURS]
    problems += [f"x_weft.{key}: {reason}" for key, reason in _NOT_HERE.items() if extension.get(key)]
    problems += [
        f"x_weft.{_OURS[key]} and {key} say the same thing; leave one out"
        for key in given
        if _OURS.get(key) in extension
    ]
    if "learning_rate" in extension and multiplier(hyperparameters) != 1:
        problems.append("x_weft.learning_rate is the rate itself; leave out learning_rate_multiplier")
    if "seed" in extension:
        problems.append("x_weft.seed: write `seed` beside `model`")
    if problems:
        raise SettingsError("the job's settings cannot be used: " + "; ".join(problems) + ".")
