"""What a job leaves behind: checkpoints that answer, the model, the file of its metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from weft.serve.records import Checkpoint, EventDraft, Job, Model
from weft.serve.store.files import insert_file
from weft.serve.store.ground import Ground
from weft.serve.store.minting import checkpoint_name, model_name
from weft.serve.store.models import drop_models
from weft.serve.store.rows import record
from weft.serve.store.schema import checkpoints, models
from weft.serve.store.transitions import end

KEPT = 3
RESULT_PURPOSE = "fine-tune-results"
RESULT_NAME = "step_metrics.csv"


class Results:
    """Writes results, each as part of its caller's transaction."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def checkpoint(
        self, connection: Connection, job: Row[Any], step: int, metrics: dict[str, Any], adapter: str
    ) -> tuple[Checkpoint | None, list[str]]:
        """A checkpoint with a name of its own, or the one of this step; and the adapters of those that it drove out."""
        query = select(checkpoints).where(checkpoints.c.job_id == job.id).order_by(checkpoints.c.step)
        known = connection.execute(query).all()
        for row in known:
            if row.step == step:
                return record(Checkpoint, row), []
        if len(known) >= KEPT and step < known[0].step:
            return None, []
        name = checkpoint_name(Path(job.base).name, self._ground.organisation, job.suffix, step)
        made = self._insert(connection, job, step, metrics, adapter, name)
        self._name(connection, job, adapter, name)
        return made, self._drop_old(connection, job.id)

    def publish(
        self,
        connection: Connection,
        job: Row[Any],
        adapter: str,
        trained_tokens: int,
        csv_sha256: str,
        csv_size: int,
        step: int | None,
        metrics: dict[str, Any],
    ) -> tuple[Job, list[str]]:
        """Model, result file, last checkpoint, final state; and the adapters that this job dropped."""
        name = model_name(Path(job.base).name, self._ground.organisation, job.suffix)
        dropped = self._last_checkpoint(connection, job, adapter, step, metrics, name)
        file = insert_file(self._ground, connection, job.owner, RESULT_NAME, RESULT_PURPOSE, csv_sha256, csv_size)
        self._name(connection, job, adapter, name)
        told = f"New fine-tuned model created: {name}", "The job has successfully completed"
        ended = end(
            self._ground, connection, job.id, "succeeded", *map(EventDraft, told),
            fine_tuned_model=name, trained_tokens=trained_tokens, result_files=(file.id,), error=None,
        )  # fmt: skip
        return ended, dropped

    def _last_checkpoint(
        self, connection: Connection, job: Row[Any], adapter: str, step: int | None, metrics: dict[str, Any], name: str
    ) -> list[str]:
        """What is published carries the model's own name: a checkpoint that had another takes it over, and stays."""
        same = checkpoints.c.step == step if step is not None else checkpoints.c.adapter == adapter
        query = select(checkpoints).where(checkpoints.c.job_id == job.id, same).order_by(checkpoints.c.step.desc())
        known = connection.execute(query).first()
        if known is not None:
            drop_models(connection, [known.model])
            connection.execute(checkpoints.delete().where(checkpoints.c.id == known.id))
            step, metrics = known.step, metrics or known.metrics
        if step is None:
            return []
        self._insert(connection, job, step, metrics, adapter, name)
        return [*([known.adapter] if known else []), *self._drop_old(connection, job.id, name)]

    def _insert(
        self, connection: Connection, job: Row[Any], step: int, metrics: dict[str, Any], adapter: str, name: str
    ) -> Checkpoint:
        made = Checkpoint(self._ground.minter.id("ftckpt_"), job.id, self._ground.now(), step, name, metrics, adapter)
        connection.execute(checkpoints.insert().values(**dataclasses.asdict(made)))
        return made

    def _name(self, connection: Connection, job: Row[Any], adapter: str, name: str) -> None:
        model = Model(name, job.owner, job.id, job.base, job.base_sha256 or "", adapter, self._ground.now())
        connection.execute(models.insert().values(**dataclasses.asdict(model)))

    def _drop_old(self, connection: Connection, job_id: str, published: str | None = None) -> list[str]:
        """All but the newest; the one that is `published` counts as new, whatever its step."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.model != (published or ""))
        others = query.order_by(checkpoints.c.step.desc())
        old = connection.execute(others.offset(KEPT if published is None else KEPT - 1)).all()
        if old:
            drop_models(connection, [row.model for row in old])
            connection.execute(checkpoints.delete().where(checkpoints.c.id.in_([row.id for row in old])))
        return [row.adapter for row in old]
