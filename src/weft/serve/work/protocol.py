"""What a worker and its supervisor say to each other: one JSON object per line, checked on arrival.

    supervisor   Order                    once, at the start
    worker       Beat, Steps, …           each one is answered before the next
    supervisor   Answer                   taken, or refused
    supervisor   SIGTERM                  save between two steps and leave

A worker names no path and words no event: it sends numbers, and the supervisor knows which file they are about.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MOST_BYTES = 1 << 20
"""Longest line."""
MOST_STEPS = 200
"""Most steps in one message."""

Measures = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], float]
Step = Annotated[int, Field(ge=1, le=10**12)]


class Shape(BaseModel):
    """Base of every message: frozen, nothing unknown, no number that JSON does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Order(Shape):
    """One attempt: what is to be done, with which files, within which bounds."""

    job: str
    attempt: int
    phase: Literal["validate", "train"]
    method: str
    """`supervised` or `dpo`."""
    folder: str
    """The job's own folder: the only one that the worker writes to."""
    training: str
    """Path of the training file."""
    training_id: str
    validation: str | None
    validation_id: str | None
    base: str
    """Name of the base, as jobs and adapters have it."""
    base_folder: str
    start: str | None
    """Folder of the adapter to go on from."""
    hyperparameters: dict[str, Any]
    """As they were asked for, `auto` included."""
    extension: dict[str, Any]
    seed: int
    device: str
    threads: int
    last_step: int
    """Metrics of steps up to this one were told by an earlier attempt."""
    beat_seconds: float
    memory_bytes: int | None
    file_bytes: int | None


class StepMeasures(Shape):
    """What one optimizer step gave, in the API's names (`train_loss`, `valid_loss` …)."""

    step: Step
    total: Step
    values: Measures


class Beat(Shape):
    """The worker is alive."""

    say: Literal["beat"] = "beat"


class Steps(Shape):
    """Steps that are done, in order."""

    say: Literal["steps"] = "steps"
    steps: Annotated[tuple[StepMeasures, ...], Field(max_length=MOST_STEPS)]


class Note(Shape):
    """Something that the owner should know."""

    say: Literal["note"] = "note"
    message: Annotated[str, Field(max_length=1000)]
    level: Literal["info", "warn"] = "warn"


class Settled(Shape):
    """Every `auto` has become a number."""

    say: Literal["settled"] = "settled"
    hyperparameters: Measures
    base_sha256: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{1,128}$")]
    seconds_left: Annotated[float, Field(ge=0, le=1e9)] | None = None


class Epoch(Shape):
    """An epoch's adapter lies in the run's folder."""

    say: Literal["epoch"] = "epoch"
    step: Step
    values: Measures


class Validated(Shape):
    """The files can be trained on."""

    say: Literal["validated"] = "validated"


class Finished(Shape):
    """The adapter and the table of metrics lie in the run's folder."""

    say: Literal["finished"] = "finished"
    trained_tokens: Annotated[int, Field(ge=0, le=10**15)]
    step: Step
    """The step whose parameters are published."""
    values: Measures


class Failed(Shape):
    """The attempt is over without a result; `again`: another one may fare better."""

    say: Literal["failed"] = "failed"
    code: Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,63}$")]
    message: Annotated[str, Field(max_length=20_000)]
    param: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]{0,63}$")] | None = None
    again: bool = False


class Left(Shape):
    """The state is saved and the worker leaves, as it was told to."""

    say: Literal["left"] = "left"


Word = Beat | Steps | Note | Settled | Epoch | Validated | Finished | Failed | Left
_WORDS: TypeAdapter[Word] = TypeAdapter(Annotated[Word, Field(discriminator="say")])


class Answer(Shape):
    """What the supervisor replies: `refused` says why a word was not taken, and the attempt is over."""

    refused: str | None = None


def read_word(line: bytes) -> Word:
    """The word in a line. Raises ValueError (pydantic's) where it is none."""
    return _WORDS.validate_json(line)
