"""Train, publish, and load again what was published: the tuned arm is measured from the files that a user gets."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

from weft.models import lora
from weft.models.load import Base, load
from weft.progress import Progress
from weft.runs import Run
from weft.settings import Resolved
from weft.tasks import Task
from weft.train import dpo, pretrain, sft
from weft.train.dpo_config import DpoConfig
from weft.train.judge import Judge
from weft.train.pretrain_config import PretrainConfig
from weft.train.stop import Stop


def tune(
    run: Run,
    base: Base,
    train: Sized,
    validation: Any,
    settings: Resolved[Any],
    progress: Progress,
    task: Task | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """The record of the run's training; trains (or goes on training) where it is not there yet. Changes `base`.

    `settings` of a DpoConfig want preferences to learn from, those of an SftConfig conversations, those of a
    PretrainConfig a `Mix` and `HeldOut` rows. `task`: of the conversations, for a training that stops on a score.
    Raises Stopped where `stop` or SIGTERM orders it. A SIGTERM that comes after the last step takes its effect once
    the result and its record stand; a caller with a `stop` of its own sees to that itself (`Stop.pass_on`).
    """
    if run.has("training.json"):
        return run.read_json("training.json")
    methods: dict[type, Any] = {DpoConfig: dpo, PretrainConfig: pretrain}
    method = methods.get(type(settings.config), sft)
    settings = method.settle(settings, base, train)
    run.write_json("train-settings.json", settings.to_json())
    told = stop or Stop()
    also: dict[str, Any] = {"stop": told}
    if method is sft and task is not None:
        also["judge"] = Judge.of(base, task, cast(Any, train), validation, settings.config)
    trained = method.train(run, base, train, validation, settings.config, progress, **also)
    record = {**trained.to_json(), "settings": settings.to_json()}
    run.write_json("training.json", record)
    told_of = {key: record[key] for key in ("steps", "best_step", "published_step", "stopped_because")}
    run.event("trained", **told_of)
    if stop is None:
        told.pass_on()
    return record


def load_untuned(run: Run) -> Base:
    """The base that the run began with, in 4 bits where it was trained so."""
    told = run.settings["run"]
    return load(told["base"]["value"], quantize=told.get("quantize", {}).get("value", "none"))


def load_tuned(run: Run) -> Base:
    """The model that the run published: its base with the adapter, or the whole model of a full fine-tuning."""
    if run.has("model"):
        return load(str(run.path("model")))
    base = load_untuned(run)
    lora.load_adapter(base.model, run.path("adapter"))
    if base.quantize == "none":
        lora.fuse(base.model)  # the same answers up to rounding, without the adapter's products at every token
    return base
