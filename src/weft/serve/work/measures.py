"""A run's metrics.jsonl → what the API tells of each step, and the sentences of its events.

    {"step": 3, "loss": 0.51, …}              train_loss, train_mean_token_accuracy, learning_rate, grad_norm
    {"step": 3, "validation_loss": 0.61, …}   valid_loss, valid_mean_token_accuracy; after an epoch full_valid_… too

weft looks at all validation rows whenever it looks, so `valid_…` and `full_valid_…` are the same number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weft.serve.work.protocol import StepMeasures

_NAMES = {"loss": "loss", "token_accuracy": "mean_token_accuracy"}
_AS_THEY_ARE = {"learning_rate": "learning_rate", "gradient_norm": "grad_norm"}
_LEFT_OUT = ("step", "tokens", "epoch")
_LOOK = "validation_"
_TOLD_ONLY_IN_THE_TABLE = ("learning_rate", "grad_norm")


def of_step(lines: Iterable[Mapping[str, Any]], total: int, per_epoch: int) -> StepMeasures:
    """All that the lines of one step say, in the API's names. Values that are no numbers are left out."""
    values: dict[str, float] = {}
    step = 0
    for line in lines:
        step = int(line["step"])
        for name, value in line.items():
            if name in _LEFT_OUT or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            for api_name in _api_names(name, epoch_ends=step % per_epoch == 0 or step == total):
                values[api_name] = float(value)
    return StepMeasures(step=step, total=total, values=values)


def _api_names(name: str, epoch_ends: bool) -> list[str]:
    if name in _AS_THEY_ARE:
        return [_AS_THEY_ARE[name]]
    if not name.startswith(_LOOK):
        return [f"train_{_NAMES.get(name, name)}"]
    looked = name.removeprefix(_LOOK)
    looked = _NAMES.get(looked, looked)
    return [f"valid_{looked}", *([f"full_valid_{looked}"] if epoch_ends else [])]


def sentence(told: StepMeasures) -> str:
    """The metrics event's message, as scripts match on it."""
    values = told.values
    said = f"Step {told.step}/{told.total}: training loss={values.get('train_loss', float('nan')):.2f}"
    if "valid_loss" in values:
        said += f", validation loss={values['valid_loss']:.2f}"
    if "full_valid_loss" in values:
        said += f", full validation loss={values['full_valid_loss']:.2f}"
    return said


def event_data(told: StepMeasures) -> dict[str, Any]:
    """The metrics event's `data`."""
    kept = {name: value for name, value in told.values.items() if name not in _TOLD_ONLY_IN_THE_TABLE}
    return {"step": told.step, "total_steps": told.total, **kept}


def by_step(lines: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """The lines of each step, in the order of the file."""
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(int(line["step"]), []).append(line)
    return grouped


class Tail:
    """The lines that are new in a growing file of JSON, of metrics once a resume has dropped what it will repeat.

    `from_here`: those that are written from now on.
    """

    def __init__(self, path: Path, *, from_here: bool = False) -> None:
        self._path = path
        self._place = path.stat().st_size if from_here and path.exists() else 0

    def lines(self) -> list[dict[str, Any]]:
        """Whole lines since the last call; a line that is still being written waits."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        with os.fdopen(handle, "rb") as file:
            file.seek(self._place)
            given = file.read()
        whole = given[: given.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
