"""What the store gives: frozen records, one for each object of the API, plus what a new job is drafted from.

Times are whole Unix seconds, sizes bytes. An `owner` is a slug of [a-z0-9-]; without keys everything is of `LOCAL`.
An adapter's identity is the SHA-256 over its files' names and hashes (`store.adapters.identity_of`). Nothing here
reads, writes or imports anything but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

LOCAL = "local"
"""The owner of every request as long as there are no keys."""

FileStatus = Literal["uploaded", "processed", "error", "deleted"]
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Wish = Literal["cancel", "pause"]
Order = Literal["asc", "desc"]
Phase = Literal["validate", "train"]
Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job never leaves."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class File:
    """Content of an owner; `filename` is a label that never becomes a path."""

    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: FileStatus
    status_details: str | None
    expires_at: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that arrives in parts; `bytes` is what was announced, `file_id` is there once it is completed."""

    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    mime_type: str
    status: UploadStatus
    expires_at: int
    file_id: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of an upload."""

    id: str
    upload_id: str
    created_at: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class JobDraft:
    """What a fine-tuning job is created from; everything in it has been checked by the routes.

    `start_from` is the identity of the adapter to continue, where `model` is a fine-tuned one.
    """

    model: str
    base: str
    training_file: str
    seed: int
    method: Mapping[str, Any]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    extension: Mapping[str, Any] = field(default_factory=dict)
    validation_file: str | None = None
    suffix: str | None = None
    integrations: list[Any] | None = None
    metadata: Mapping[str, str] | None = None
    start_from: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job as it stands in the database.

    `attempt` counts the workers that took it, `crashes` those that were lost; `wish` is what its owner asked of the
    worker that holds it now. `error` is {code, message, param}.
    """

    id: str
    owner: str
    created_at: int
    model: str
    base: str
    status: JobStatus
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    extension: dict[str, Any]
    integrations: list[Any] | None
    metadata: dict[str, str] | None
    fine_tuned_model: str | None
    finished_at: int | None
    started_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    result_files: tuple[str, ...]
    error: dict[str, Any] | None
    attempt: int
    crashes: int
    wish: Wish | None
    start_from: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's log; `number` runs from 1 without a gap."""

    id: str
    job_id: str
    number: int
    created_at: int
    level: Level
    message: str
    type: EventType
    data: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event that a worker tells; the store gives it id, number and time."""

    message: str
    level: Level = "info"
    type: EventType = "message"
    data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An adapter of an epoch's end that answers under the name `model`."""

    id: str
    job_id: str
    created_at: int
    step: int
    model: str
    metrics: dict[str, Any]
    adapter: str


@dataclass(frozen=True, slots=True)
class Model:
    """A fine-tuned model: `id` is ft:BASE:ORGANISATION:SUFFIX:8CHARS, of a checkpoint with `:ckpt-step-N` behind it."""

    id: str
    owner: str
    job_id: str
    base: str
    base_sha256: str
    adapter: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Permission:
    """That another owner, the API's project, may use a fine-tuned model."""

    id: str
    model: str
    project_id: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret; `prefix` is the readable beginning that is safe to show."""

    id: str
    owner: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A piece of a list; the id of its last item is the next `after`."""

    items: tuple[T, ...]
    has_more: bool
