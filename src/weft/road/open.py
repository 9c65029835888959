"""Whatever a person can talk to, by name: a base, a run's folder, or an adapter's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from weft.errors import ModelError
from weft.generate.constrain import Constraint
from weft.models import lora
from weft.models.load import Base, load
from weft.road import structured
from weft.road.tune import load_tuned
from weft.runs import SETTINGS, Run


@dataclass(frozen=True)
class Opened:
    """A model, and of a run's model how it was asked when it was measured."""

    base: Base
    system: str | None = None
    """The system message before each example that had none."""
    constraint: Constraint | None = None
    """What each answer was held to."""


def open_model(name: str) -> Opened:
    """The model behind `name`.

    Raises ModelError for a run that has published nothing, or not yet; UsageError for a name that is nothing.
    """
    folder = Path(name)
    if (folder / SETTINGS).is_file():
        run = Run.open(folder)
        if not run.has("training.json"):
            if run.has("report.json"):
                raise ModelError(_untrained(name, run))
            raise ModelError(f"{name}: this run has no trained model yet. Continue it with: weft run {name}")
        base = load_tuned(run)
        return Opened(base, run.settings["run"].get("system", {}).get("value"), structured.of_run(run, base))
    if (folder / lora.ADAPTER_CONFIG).is_file():
        base = load(_base_of(folder))
        lora.load_adapter(base.model, folder)
        return Opened(base)
    return Opened(load(name))


def _untrained(name: str, run: Run) -> str:
    """Why a finished run has no model, and what can be talked to instead."""
    verdict, base = run.read_json("report.json")["verdict"]["choice"], run.settings["run"]["base"]["value"]
    return (
        f"{name}: this run ended without training, because its verdict ({verdict}) needed none, so it has no model of "
        f"its own. Talk to its base with: weft chat {base}"
    )


def _base_of(adapter: Path) -> str:
    """The name of the base that an adapter's settings give."""
    path = adapter / lora.ADAPTER_CONFIG
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}). Write the adapter again.") from None
    if not name or not isinstance(name, str):
        raise ModelError(f"{path}: names no base (`base_model_name_or_path`). Write the base's name or folder there.")
    return name
