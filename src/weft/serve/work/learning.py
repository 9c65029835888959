"""The phase `train`: files and order → a run's folder with the adapter and the table of metrics, and the last word.

The run's folder outlives the attempt: the next one goes on from its last checkpoint, and refuses to where data, base,
settings or libraries are not the same any more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from weft import __version__
from weft.errors import DataError, UsageError
from weft.models import precision
from weft.models.load import Base, load
from weft.road.tune import tune
from weft.runs import SETTINGS, Run, write_whole
from weft.serve.work import hyperparameters, names, table
from weft.serve.work.continuing import go_on_from, join
from weft.serve.work.examples import Examples, examples_of
from weft.serve.work.measures import by_step, of_step
from weft.serve.work.protocol import Failed, Finished, Note, Order, Settled, StepMeasures, Word
from weft.serve.work.reporter import Reporter
from weft.settings import Resolved
from weft.train import dpo, sft
from weft.train.stop import Stop

_METHODS: dict[str, Any] = {"supervised": sft, "dpo": dpo}


def learn(order: Order, reporter: Reporter) -> Word:
    """Train, or go on. Raises what training raises; errors.Stopped where it was told to save and leave."""
    folder = Path(order.folder) / names.RUN
    torch.set_num_threads(_threads(folder, order.threads))
    route = precision.settle()
    wanted = hyperparameters.asked(order.method, order.hyperparameters, order.extension, order.seed)
    examples = _examples(order, choose=wanted.config.publish == "best")
    base = replace(load(order.base_folder, device=order.device), name=order.base)
    if order.start:
        go_on_from(base, Path(order.start), wanted.config.lora)
    method = _METHODS[order.method]
    settings = hyperparameters.settled(
        wanted, lambda known: method.settle(known, base, examples.train), order.hyperparameters
    )
    try:
        run = Run.create(folder, _record(order, examples, base, settings, route))
    except UsageError as error:
        return Failed(
            code="resume_refused",
            message=f"The job cannot go on as it began: {str(error).removeprefix(f'{folder}: ')} Create it again.",
        )
    with run.locked():
        if not run.has("train-settings.json"):
            method.rehearse(base, examples.train, examples.validation, settings.config)
            if examples.note:
                reporter.word(Note(message=examples.note))
        numbers = hyperparameters.shown(settings.config, order.hyperparameters)
        told = Settled(hyperparameters=numbers, base_sha256=base.fingerprint)
        reporter.expect(run.folder, settings.config, told, lambda name: _joined(order, base, run, name))
        trained = tune(run, base, examples.train, examples.validation, settings, reporter, stop=Stop())
        total = _total(trained, len(examples.train), settings)
        reporter.start("train", total)  # where an earlier attempt had trained already
        _joined(order, base, run, names.ADAPTER)
        steps = _steps(run, total, settings)
        write_whole(Path(order.folder) / names.TABLE, table.step_metrics(steps))
        published = next(told for told in steps if told.step == trained["published_step"])
        reporter.close_books(published.step)
        if published.step != trained["steps"]:
            reporter.word(Note(message=_chosen(trained, total), level="info"))
        return Finished(trained_tokens=trained["tokens"], step=published.step, values=published.values)


def _chosen(trained: Mapping[str, Any], total: int) -> str:
    """Why it is not the last step that is published."""
    by, step, last = trained["chosen_by"], trained["published_step"], trained["steps"]
    best = f"the {'lowest' if by == 'loss' else 'highest'} validation {by}"
    return f"Published: step {step} of {total}, {best}; training ended at step {last}."


def _examples(order: Order, *, choose: bool) -> Examples[Any]:
    """The rows of the files; what is wrong with a file is the file's fault, whatever the reader calls it."""
    validation = Path(order.validation) if order.validation else None
    try:
        return examples_of(order.method, Path(order.training), validation, choose=choose)
    except UsageError as error:
        raise DataError(str(error)) from None


def _threads(folder: Path, wanted: int) -> int:
    """The number of threads that the job began with: another one would give other roundings."""
    try:
        return int(json.loads((folder / SETTINGS).read_text("utf-8"))["threads"])
    except (OSError, ValueError, KeyError):
        return wanted


def _record(order: Order, examples: Examples[Any], base: Base, settings: Resolved[Any], route: str) -> dict[str, Any]:
    """What the run stands on: all of it must be the same when it goes on."""
    return {
        "job": order.job,
        "data_sha256": list(examples.sha256),
        "base_sha256": base.fingerprint,
        "start": Path(order.start).name if order.start else None,
        "arithmetic": route,
        "threads": torch.get_num_threads(),
        "versions": {"weft": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        "method": order.method,
        "run": settings.to_json(),
    }


def _joined(order: Order, base: Base, run: Run, name: str) -> None:
    """Where the job goes on from a tuned model, an adapter of the run joined with that one."""
    folder = Path(order.folder) / names.RESULT / name
    if order.start and not folder.exists():
        join(Path(order.start), run.path(name), folder, base.name)


def _total(trained: Mapping[str, Any], examples: int, settings: Resolved[Any]) -> int:
    """The steps that the training was to have at most."""
    return math.ceil((examples - len(trained["skipped_lines"])) / settings.config.batch_size) * settings.config.epochs


def _steps(run: Run, total: int, settings: Resolved[Any]) -> list[StepMeasures]:
    """Every step of the run, from the first attempt on."""
    per_epoch = total // settings.config.epochs
    return [of_step(lines, total, per_epoch) for lines in by_step(run.metrics()).values()]
