"""What the store's tests are played with: files, jobs, adapters, a whole training told to the leases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.serve.leases import Leases
from weft.serve.records import File, Job, JobDraft
from weft.serve.store import Store


def put_file(store: Store, text: bytes = b"{}\n", owner: str = "ann", **also: Any) -> File:
    sha256, size = store.blobs.put([text], 1 << 20)
    return store.files.create(
        owner, also.pop("filename", "a.jsonl"), also.pop("purpose", "fine-tune"), sha256, size, **also
    )


def draft(file: File, **also: Any) -> JobDraft:
    return JobDraft("nano", "weft-nano", file.id, 7, {"type": "supervised"}, {"n_epochs": "auto"}, **also)


def new_job(store: Store, owner: str = "ann", **also: Any) -> Job:
    return store.jobs.create(owner, draft(put_file(store, owner=owner), **also))


def adapter(store: Store, content: bytes = b"weights") -> str:
    """An adopted adapter."""
    folder = store.data / "work" / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(content)
    return store.blobs.adopt_adapter(folder)


def start(leases: Leases, worker: str = "w") -> tuple[Job, int]:
    """Take a job until one is to be trained; files are found good on the way."""
    while True:
        lease = leases.take(worker)
        assert lease is not None
        if lease.phase == "train":
            return lease.job, lease.attempt
        leases.validated(lease.job.id, lease.attempt)


def finish(store: Store, leases: Leases, job: Job, attempt: int, content: bytes = b"weights", **also: Any) -> Job:
    sha256, size = store.blobs.put([b"step,train_loss\n"], 100)
    return leases.finish(job.id, attempt, adapter(store, content), 120, sha256, size, **also)


def messages(store: Store, job: Job) -> list[str]:
    """Oldest first."""
    return [event.message for event in store.jobs.events_since(job.owner, job.id, 0)]


def lying(folder: Path) -> set[str]:
    """The names in a folder."""
    return {path.name for path in folder.iterdir()}
