"""step_metrics.csv: one row for each optimizer step, the API's columns first, then all else that was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from weft.serve.work.protocol import StepMeasures

HEADER = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""As the hosted service writes it; readers address columns by name."""
_FURTHER = (
    "train_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
    "learning_rate",
    "grad_norm",
)
_ALSO_CALLED = {"train_accuracy": "train_mean_token_accuracy"}


def step_metrics(steps: Sequence[StepMeasures]) -> bytes:
    """The file's bytes. Cells are numbers or empty, so none can be read as a formula."""
    measured = {name for step in steps for name in step.values}
    own = sorted(measured - {*HEADER, *_FURTHER})
    columns = [*HEADER, *_FURTHER, *own]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for step in steps:
        cells = {"step": step.step, **step.values}
        writer.writerow([cells.get(_ALSO_CALLED.get(name, name), "") for name in columns])
    return text.getvalue().encode()
