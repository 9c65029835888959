"""The road of `weft train --method dpo`: read the pairs, split them, train, look once at the sealed test pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.data.read_preferences import read_preferences
from weft.data.split import split
from weft.errors import DataError
from weft.models import precision
from weft.progress import Progress
from weft.records import Conversation, Finding, Message, Preference, PreferenceSet
from weft.road.asked import told
from weft.road.begin import load_base, open_run
from weft.road.judge_pairs import judge_pairs, require_pairs
from weft.road.prepare import FEWEST, MOST_TOLD
from weft.road.settings import PairsConfig, training_part
from weft.road.tune import tune
from weft.runs import Run
from weft.train import dpo
from weft.train.dpo_config import DpoConfig


@dataclass(frozen=True)
class Parts:
    """The pairs of a file, near-duplicate prompts in one part; test is sealed until the training is over."""

    train: tuple[Preference, ...]
    validation: tuple[Preference, ...]
    test: tuple[Preference, ...]


def train_on_pairs(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress, *, resume: bool = False
) -> tuple[Run, dict[str, Any]]:
    """Train, or go on; the run and the record of its training, with what the test pairs say under `test`.

    Raises UsageError, SettingsError, DataError, ModelError or ResourceError before anything is written.
    """
    route = precision.settle()
    wanted = told(PairsConfig, data, out, file, flags, resume=resume)
    config = wanted.settings.config
    dataset = read_preferences(wanted.data, system=config.system)  # first, for a file that is none needs no base
    progress.start("load the base")
    base = load_base(wanted)
    progress.finish(f"{base.name}: {base.parameters:,} parameters, context {base.context:,}, {route}")
    progress.start("read and split")
    parts = _parts(dataset)
    progress.finish(
        f"{dataset.rows:,} rows as {dataset.layout}; {len(parts.train):,} pairs to train on, "
        f"{len(parts.validation):,} to choose by, {len(parts.test):,} sealed for the test"
    )
    for finding in _flaws(dataset)[:MOST_TOLD]:
        progress.say(f"    {finding.severity}: line {finding.line}: {finding.message}")
    settings = training_part(wanted.settings, DpoConfig)
    dpo.rehearse(base, parts.train, parts.validation, dpo.settle(settings, base, parts.train).config)
    require_pairs(base, parts.test)
    run = open_run(wanted, base, dataset.sha256, route)
    with run.locked():
        record = tune(run, base, parts.train, parts.validation, settings, progress)
        return run, {**record, "test": judge_pairs(run, parts.test, progress)}


def _flaws(dataset: PreferenceSet) -> list[Finding]:
    return [finding for finding in dataset.findings if finding.severity != "note"]


def _parts(dataset: PreferenceSet) -> Parts:
    """Raises DataError where fewer than FEWEST pairs are usable, naming the rows that are not."""
    if len(dataset.pairs) < FEWEST:
        told = "\n".join(f"  line {finding.line}: {finding.message}" for finding in _flaws(dataset)[:20])
        raise DataError(
            f"{dataset.path}: {len(dataset.pairs)} of {dataset.rows} rows are usable as preference pairs; at least "
            f"{FEWEST} are needed. Add pairs, or mend these:\n{told}".rstrip(":\n")
        )
    # To `split`, a pair is a conversation that goes on with both replies: equal ones are equal pairs.
    examples = [
        Conversation((*pair.answered(pair.chosen), Message("assistant", pair.rejected)), line=number)
        for number, pair in enumerate(dataset.pairs)
    ]
    made = split(examples)
    return Parts(*(_pairs(dataset, part) for part in (made.train, made.validation, made.test)))


def _pairs(dataset: PreferenceSet, examples: Sequence[Conversation]) -> tuple[Preference, ...]:
    return tuple(dataset.pairs[example.line] for example in examples)
