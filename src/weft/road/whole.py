"""The road from beginning to end, and the two halves of it that have verbs of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weft import __version__
from weft.decide.verdict import Verdict, decide, settled_without_arms
from weft.errors import DamageError, UsageError
from weft.evaluate.arms.rag import read_passages
from weft.models import precision
from weft.models.load import Base, load
from weft.progress import Progress
from weft.road.conclude import conclude
from weft.road.measure import measure_arms, measure_tuned
from weft.road.prepare import Prepared, prepare
from weft.road.settings import RoadConfig, training_part
from weft.road.tune import load_tuned, tune
from weft.runs import SETTINGS, Run
from weft.settings import Resolved, resolve
from weft.train import sft

RUNS = Path("runs")


@dataclass
class Begun:
    """A run that has been opened: its folder, settings, base and data."""

    run: Run
    settings: Resolved[RoadConfig]
    base: Base
    prepared: Prepared
    passages: list[str] | None
    settled: Verdict | None
    """What the data alone decide, so that nothing need be measured."""


def whole(data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """`weft run`: every stage; returns the report. What the run's folder already holds is not done again."""
    if (report := _finished(data, out, file, flags, progress)) is not None:
        return report
    begun = begin(data, out, file, flags, progress)
    with begun.run.locked():
        if begun.run.has("report.json"):
            progress.say(f"{begun.run.folder}: this run is finished; its report follows.")
            return begun.run.read_json("report.json")
        prepared, task = begun.prepared, begun.prepared.task
        if begun.settled is not None:
            return conclude(begun.run, begun.base, prepared, begun.settings, {}, None, begun.settled)
        cards = measure_arms(
            begun.run, begun.base, prepared, begun.passages, begun.settings.config.choice_rows, progress
        )
        training = tune(begun.run, begun.base, prepared, training_part(begun.settings), progress)
        tuned = load_tuned(begun.run)
        cards["tuned"] = measure_tuned(begun.run, tuned, prepared, progress)
        verdict = decide(task, cards, prepared.findings, sizes=prepared.sizes)
        return conclude(begun.run, tuned, prepared, begun.settings, cards, training, verdict)


def train_only(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress
) -> tuple[Run, dict[str, Any]]:
    """`weft train`: data, then training; `weft eval` or `weft run` on its folder does the rest."""
    begun = begin(data, out, file, flags, progress)
    with begun.run.locked():
        return begun.run, tune(begun.run, begun.base, begun.prepared, training_part(begun.settings), progress)


def _finished(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress
) -> dict[str, Any] | None:
    """The report of a finished run that is only to be shown: that needs neither its base nor its data any more."""
    folder = Path(data)
    if not (folder / SETTINGS).is_file() or out or file or any(value is not None for value in flags.values()):
        return None
    run = Run.open(folder)
    if not run.has("report.json"):
        return None
    progress.say(f"{folder}: this run is finished; its report follows.")
    return run.read_json("report.json")


def begin(data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress) -> Begun:
    """Resolve the settings, look at base and data, and open or continue the run that they name.

    Raises UsageError, SettingsError, DataError, ModelError or ResourceError before anything is written.
    """
    route = precision.settle()
    given = Path(data)
    if (given / SETTINGS).is_file():
        if file or (out and Path(out).resolve() != given.resolve()):
            raise UsageError(f"{data}: a run keeps its settings and its folder. Leave out --config and --out.")
        settings, data = _settings_of(Run.open(given), flags)
        out = str(given)
    else:
        settings = resolve(RoadConfig, flags, file=Path(file) if file else None)
    config = settings.config
    passages = read_passages(Path(config.docs)) if config.docs else None
    if not Path(data).is_file():
        raise UsageError(_not_a_file(data))
    progress.start("load the base")
    base = load(config.base)
    progress.finish(f"{base.name}: {base.parameters:,} parameters, context {base.context:,}, {route}")
    prepared = prepare(Path(data), config, base.chat, base.context, progress)
    settled = settled_without_arms(prepared.task, prepared.findings, sizes=prepared.sizes)
    if settled is None:
        training = sft.settle(training_part(settings), base, len(prepared.split.train)).config
        sft.rehearse(base, prepared.split.train, prepared.split.validation, training)
    record = {
        "data": str(Path(data).resolve()),
        "data_sha256": prepared.dataset.sha256,
        "base_sha256": base.fingerprint,
        "arithmetic": route,
        "versions": {
            "weft": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "run": settings.to_json(),
    }
    folder = Path(out) if out else RUNS / f"{Path(data).stem}-{_short_hash(record)}"
    return Begun(Run.create(folder, record), settings, base, prepared, passages, settled)


def _settings_of(run: Run, flags: Mapping[str, Any]) -> tuple[Resolved[RoadConfig], str]:
    """What an existing run was told; flags may repeat it but not change it (`Run.create` compares)."""
    record = run.settings
    given = {key: value for key, value in flags.items() if value is not None}
    resolve(RoadConfig, given, environment={})  # a wrong flag is the user's fault, not the folder's
    try:
        kept = {key: entry["value"] for key, entry in record["run"].items()}
        origins = {key: entry["origin"] for key, entry in record["run"].items()}
        return Resolved(RoadConfig.model_validate({**kept, **given}), origins), str(record["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(
            f"{run.path(SETTINGS)}: not the settings of a run of this weft ({str(error).splitlines()[0]}). "
            "Start a new run with the file of examples."
        ) from None


def _short_hash(record: Mapping[str, Any]) -> str:
    values = {**record, "run": {key: entry["value"] for key, entry in record["run"].items()}}
    del values["data"]  # the same bytes elsewhere are the same run
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _not_a_file(data: str) -> str:
    path = Path(data)
    if path.is_dir():
        return f"{data}: a folder, and not a run folder (no {SETTINGS} in it). Name a file of examples."
    if path.exists():
        return f"{data}: not a regular file. Save the examples in a file first."
    return f"{data}: no such file. Name a JSONL, JSON or CSV file of examples, or the folder of a run."
