"""The road from beginning to end, and the two halves of it that have verbs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.decide.verdict import Verdict, decide, settled_without_arms
from weft.evaluate.arms.rag import read_passages
from weft.models import precision
from weft.models.load import Base
from weft.progress import Progress, Silent
from weft.road import structured
from weft.road.adapt import train_on_documents
from weft.road.asked import examples_asked, method_of
from weft.road.begin import load_base, open_run
from weft.road.conclude import conclude
from weft.road.measure import measure_arms, measure_tuned
from weft.road.prefer import train_on_pairs
from weft.road.prepare import Prepared, prepare
from weft.road.settings import RoadConfig, training_part
from weft.road.structured import Form
from weft.road.tune import load_tuned, tune
from weft.runs import SETTINGS, Run
from weft.settings import Resolved
from weft.train import sft


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
    form: Form | None
    """What every answer is held to."""


def whole(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress, *, resume: bool = False
) -> dict[str, Any]:
    """`weft run`: every stage; returns the report. What the run's folder already holds is not done again."""
    if (report := _finished(data, out, file, flags, progress)) is not None:
        return report
    begun = begin(data, out, file, flags, progress, resume=resume)
    with begun.run.locked():
        if begun.run.has("report.json"):
            progress.say(f"{begun.run.folder}: this run is finished; its report follows.")
            return begun.run.read_json("report.json")
        prepared, task = begun.prepared, begun.prepared.task
        if begun.settled is not None:
            return conclude(begun.run, begun.base, prepared, begun.settings, {}, None, begun.settled)
        cards = measure_arms(
            begun.run, begun.base, prepared, begun.passages, begun.settings.config.choice_rows, begun.form, progress
        )
        training = _tune(begun, progress)
        tuned = load_tuned(begun.run)
        cards["tuned"] = measure_tuned(begun.run, tuned, prepared, begun.form, progress)
        verdict = decide(task, cards, prepared.findings, sizes=prepared.sizes)
        return conclude(begun.run, tuned, prepared, begun.settings, cards, training, verdict)


def run(
    data: str | Path, out: str | Path | None = None, *, progress: Progress | None = None, **settings: Any
) -> dict[str, Any]:
    """`weft run` from Python: the report as `weft run --json` prints it. `settings` are those of docs/reference.md."""
    folder = None if out is None else str(out)
    return whole(str(data), folder, None, settings, progress if progress is not None else Silent())


def train_only(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress, *, resume: bool = False
) -> tuple[Run, dict[str, Any]]:
    """`weft train`: data, then training by the method that is asked for. `weft eval` measures what `sft` made of rows
    without tools; `rows_with_tools` in the record."""
    others = {"dpo": train_on_pairs, "pretrain": train_on_documents}
    if (other := others.get(method_of(data, file, flags))) is not None:
        return other(data, out, file, flags, progress, resume=resume)
    begun = begin(data, out, file, flags, progress, resume=resume, compared=False)
    with begun.run.locked():
        record = _tune(begun, progress)
    return begun.run, record | {"rows_with_tools": sum(bool(e.tools) for e in begun.prepared.dataset.examples)}


def _tune(begun: Begun, progress: Progress) -> dict[str, Any]:
    prepared, settings = begun.prepared, training_part(begun.settings)
    parts = prepared.split
    if begun.form is not None:
        structured.keep(begun.run, begun.form)
    return tune(begun.run, begun.base, parts.train, parts.validation, settings, progress, prepared.task)


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


def begin(
    data: str,
    out: str | None,
    file: str | None,
    flags: Mapping[str, Any],
    progress: Progress,
    *,
    resume: bool = False,
    compared: bool = True,
) -> Begun:
    """Resolve the settings, look at base and data, and open or continue the run that they name.

    `compared`: whether arms are to be measured on the data. Raises UsageError, SettingsError, DataError, ModelError or
    ResourceError before anything is written.
    """
    wanted = examples_asked(data, out, file, flags, resume=resume)
    route = precision.settle()
    config = wanted.settings.config
    passages = read_passages(Path(config.docs)) if config.docs else None
    progress.start("load the base")
    base = load_base(wanted)
    progress.finish(f"{base.name}: {base.parameters:,} parameters, context {base.context:,}, {route}")
    prepared = prepare(Path(wanted.data), config, base.chat, base.context, progress, compared=compared)
    settled = settled_without_arms(prepared.task, prepared.findings, sizes=prepared.sizes)
    form = structured.find(base, prepared, progress) if config.structured_outputs else None
    if settled is None:
        training = sft.settle(training_part(wanted.settings), base, prepared.split.train).config
        sft.rehearse(base, prepared.split.train, prepared.split.validation, training, prepared.task)
    run = open_run(wanted, base, prepared.dataset.sha256, route)
    return Begun(run, wanted.settings, base, prepared, passages, settled, form)
