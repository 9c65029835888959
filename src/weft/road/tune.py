"""Train, publish, and load again what was published: the tuned arm is measured from the files that a user gets."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from weft.models import lora
from weft.models.load import Base, load
from weft.progress import Progress
from weft.runs import Run
from weft.settings import Resolved
from weft.train import dpo, pretrain, sft
from weft.train.dpo_config import DpoConfig
from weft.train.pretrain_config import PretrainConfig


def tune(
    run: Run, base: Base, train: Sized, validation: Any, settings: Resolved[Any], progress: Progress
) -> dict[str, Any]:
    """The record of the run's training; trains (or goes on training) where it is not there yet. Changes `base`.

    `settings` of a DpoConfig want preferences to learn from, those of an SftConfig conversations, those of a
    PretrainConfig a `Mix` and `HeldOut` rows.
    """
    if run.has("training.json"):
        return run.read_json("training.json")
    methods: dict[type, Any] = {DpoConfig: dpo, PretrainConfig: pretrain}
    method = methods.get(type(settings.config), sft)
    settings = method.settle(settings, base, len(train))
    run.write_json("train-settings.json", settings.to_json())
    trained = method.train(run, base, train, validation, settings.config, progress)
    record = {**trained.to_json(), "settings": settings.to_json()}
    run.write_json("training.json", record)
    run.event("trained", steps=trained.steps, best_step=trained.best_step, stopped_because=trained.stopped_because)
    return record


def load_tuned(run: Run) -> Base:
    """The model that the run published: its base with the adapter, or the whole model of a full fine-tuning."""
    if run.has("model"):
        return load(str(run.path("model")))
    base = load(run.settings["run"]["base"]["value"])
    lora.load_adapter(base.model, run.path("adapter"))
    lora.fuse(base.model)  # the same answers up to rounding, without the adapter's products at every token
    return base
