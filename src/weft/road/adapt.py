"""The road of `weft train --method pretrain`: read the texts, split by document, pack, train, look once at the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.data.read_documents import read_documents
from weft.errors import UsageError
from weft.models import precision
from weft.progress import Progress
from weft.road.asked import told
from weft.road.begin import load_base, open_run
from weft.road.documents import without, written
from weft.road.judge_documents import judge_documents
from weft.road.settings import DocumentsConfig, training_part
from weft.road.tune import tune
from weft.runs import Run
from weft.settings import Resolved
from weft.train import pretrain
from weft.train.documents import Writer
from weft.train.mix import Mix
from weft.train.pretrain import HeldOut
from weft.train.pretrain_config import PretrainConfig


def train_on_documents(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], progress: Progress, *, resume: bool = False
) -> tuple[Run, dict[str, Any]]:
    """Train, or go on; the run and the record of its training, with perplexities on sealed documents under `test`.

    Raises UsageError, SettingsError, DataError, ModelError or ResourceError before anything is written.
    """
    route = precision.settle()
    wanted = told(DocumentsConfig, data, out, file, flags, documents=True, resume=resume)
    config = wanted.settings.config
    if config.replay is None and wanted.settings.origins["replay_share"] != "default":
        raise UsageError("--replay-share says how much of --replay is mixed in. Name the general text with --replay.")
    known = read_documents(wanted.data)  # first, for a file that is none needs no base
    progress.start("load the base")
    base = load_base(wanted)
    progress.finish(f"{base.name}: {base.parameters:,} parameters, context {base.context:,}, {route}")
    writer = Writer.of(base, pretrain.longest_row(config, base), config.document_end)
    own = written(known, writer, progress, "documents")
    general = None
    if config.replay is not None:
        general = written(without(read_documents(config.replay), known), writer, progress, "replay")
    mix = Mix(own.packs, general.packs if general else (), config.replay_share, config.seed)
    held_out = HeldOut(own.validation, general.validation if general else ())
    packs = f"    {len(own.packs):,} packs of at most {writer.longest:,} tokens, documents as {writer.marks}"
    progress.say(f"{packs}; {mix.replayed:,} packs of general text beside them in each epoch" if general else packs)
    settings: Resolved[PretrainConfig] = training_part(wanted.settings, PretrainConfig)
    pretrain.rehearse(base, mix, held_out, pretrain.settle(settings, base, mix).config)
    also = {"replay_sha256": general.documents.sha256} if general else {}
    run = open_run(wanted, base, known.sha256, route, **also)
    with run.locked():
        record = tune(run, base, mix, held_out, settings, progress)
        test = {"documents": own.test} | ({"replay": general.test} if general else {})
        if "test" not in record:
            record["test"] = judge_documents(run, test, writer, progress)
            run.write_json("training.json", record)
        return run, record
