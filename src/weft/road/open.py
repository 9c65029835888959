"""Whatever a person can talk to, by name: a base, a run's folder, or an adapter's folder."""

from __future__ import annotations

import json
from pathlib import Path

from weft.errors import ModelError
from weft.models import lora
from weft.models.load import Base, load
from weft.road.tune import load_tuned
from weft.runs import SETTINGS, Run


def open_model(name: str) -> tuple[Base, str | None]:
    """The model behind `name`, and the system message that its run was trained with, where there was one.

    Raises ModelError for a run that has published nothing yet, UsageError for a name that is nothing.
    """
    folder = Path(name)
    if (folder / SETTINGS).is_file():
        run = Run.open(folder)
        if not run.has("training.json"):
            raise ModelError(f"{name}: this run has no trained model yet. Continue it with: weft run {name}")
        return load_tuned(run), run.settings["run"].get("system", {}).get("value")
    if (folder / lora.ADAPTER_CONFIG).is_file():
        base = load(_base_of(folder))
        lora.load_adapter(base.model, folder)
        return base, None
    return load(name), None


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
