"""How a run begins once it is known what was asked for: its base, and its folder. The same for every way of tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weft import __version__
from weft.models.load import Base, load, locate
from weft.models.quant import refuse_full
from weft.road.asked import RUNS, Told, require_begun, require_room
from weft.runs import Run
from weft.train import processes
from weft.train.sharded import shared_run


def load_base(told: Told[Any]) -> Base:
    """The base that the settings name, in 4 bits where they say so (with --full a UsageError).

    Raises ResourceError, before any weights load, where training it is known not to fit.
    """
    config = told.settings.config
    locate(config.base)  # which fetches it, where it lies on the hub
    require_room(told)
    base = load(config.base, quantize=config.quantize)
    if config.full:
        refuse_full(base.model)
    return base


def open_run(told: Told[Any], base: Base, data_sha256: str, route: str, **also: str) -> Run:
    """The run of these settings, data and base: a new folder, or the unfinished one that lies there.

    `also`: fingerprints of what else it learns from. Raises UsageError where it would be new and was to be resumed.
    """
    record = {
        "data": str(Path(told.data).resolve()),
        "data_sha256": data_sha256,
        **also,
        "base_sha256": base.fingerprint,
        "arithmetic": route,
        **({"processes": processes.count()} if processes.count() > 1 else {}),
        "versions": {
            "weft": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "run": told.settings.to_json(),
    }
    folder = Path(told.out) if told.out else RUNS / f"{Path(told.data).absolute().stem}-{_short_hash(record)}"

    def create() -> Run:
        if told.resume:
            require_begun(folder)
        return Run.create(folder, record)

    return shared_run(create)


def _short_hash(record: Mapping[str, Any]) -> str:
    values = {**record, "run": {key: entry["value"] for key, entry in record["run"].items()}}
    del values["data"]  # the same bytes elsewhere are the same run
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
