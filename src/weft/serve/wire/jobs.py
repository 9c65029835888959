"""Fine-tuning jobs on the wire: what is asked, and the objects that answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from weft.serve import records
from weft.serve.wire.auto import Auto, OneSentence
from weft.serve.wire.body import Body, Metadata, Text

Epochs = Annotated[Auto | Annotated[int, Field(ge=1, le=50)], OneSentence()]
BatchSize = Annotated[Auto | Annotated[int, Field(ge=1, le=256)], OneSentence()]
Multiplier = Annotated[Auto | Annotated[float, Field(gt=0)], OneSentence()]
Beta = Annotated[Auto | Annotated[float, Field(gt=0, le=2)], OneSentence()]
Id = Annotated[Text, Field(min_length=1, max_length=256)]
MOST_SEED = 2_147_483_647


class Hyperparameters(Body):
    """What every method has; `auto` is resolved before training begins, and the job then shows the number."""

    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class DpoHyperparameters(Hyperparameters):
    """Those of direct preference optimization."""

    beta: Beta = "auto"


class Supervised(Body):
    """Learning from ideal answers."""

    hyperparameters: Hyperparameters | None = None


class Dpo(Body):
    """Learning from pairs of a better and a worse answer."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Body):
    """Which method, and its own settings under its own name."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class Integration(Body):
    """Where else metrics should go. This server makes no outgoing connection, so each is refused by its name."""

    type: Text


class JobRequest(Body):
    """A new fine-tuning job. `x_weft` holds settings that the API has no place for: keys of weft's own Configs."""

    model: Id
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    x_weft: dict[str, Any] | None = None

    def warnings(self) -> list[str]:
        said = super().warnings()
        nested = [self.hyperparameters, self.method]
        if self.method is not None:
            own = [self.method.supervised, self.method.dpo]
            nested += [*own, *(part.hyperparameters for part in own if part is not None)]
        return [*said, *(sentence for part in nested if part is not None for sentence in part.warnings())]


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobObject(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    model: str
    organization_id: str
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    training_file: str
    validation_file: str | None
    fine_tuned_model: str | None
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    result_files: list[str]
    seed: int
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    error: JobError | None
    integrations: list[Any] | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    shared_with_openai: Literal[False] = False
    x_weft: dict[str, Any]
    """The base that is really tuned, the extension as asked, how many attempts there were, and the `status` that
    `Prefer: declared-values` has no word for."""

    @classmethod
    def of(cls, job: records.Job, organization: str, base: str, declared: bool = False) -> JobObject:
        """`base`: the public name of what is tuned. `declared`: a paused job is one that waits (`declared.py`)."""
        kind = job.method["type"]
        # Schema and clients want the object for every method, and know the three names of `supervised` in it alone.
        shown = dict(job.hyperparameters)
        own = {**(job.method.get(kind) or {}), "hyperparameters": shown}
        error = job.error
        waits = declared and job.status == "paused"
        also = {"status": "paused"} if waits else {}
        return cls(
            id=job.id,
            created_at=job.created_at,
            model=job.model,
            organization_id=organization,
            status="queued" if waits else job.status,
            training_file=job.training_file,
            validation_file=job.validation_file,
            fine_tuned_model=job.fine_tuned_model,
            finished_at=job.finished_at,
            estimated_finish=job.estimated_finish if job.status == "running" else None,
            trained_tokens=job.trained_tokens,
            result_files=list(job.result_files),
            seed=job.seed,
            hyperparameters={name: shown[name] for name in Hyperparameters.model_fields if name in shown},
            method={"type": kind, kind: own},
            error=JobError.model_validate(error) if error else None,
            integrations=job.integrations,
            metadata=job.metadata,
            user_provided_suffix=job.suffix,
            x_weft={"base": base, "attempt": job.attempt, **also, **job.extension},
        )


class EventObject(BaseModel):
    """One line of a job's log."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: records.Event) -> EventObject:
        return cls(
            id=event.id,
            created_at=event.created_at,
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data if event.data is not None else {},
        )


class CheckpointObject(BaseModel):
    """An adapter of an epoch's end, which answers under its own name at once."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, checkpoint: records.Checkpoint) -> CheckpointObject:
        return cls(
            id=checkpoint.id,
            created_at=checkpoint.created_at,
            fine_tuned_model_checkpoint=checkpoint.model,
            fine_tuning_job_id=checkpoint.job_id,
            step_number=checkpoint.step,
            metrics={key: value for key, value in checkpoint.metrics.items() if value is not None},
        )
