"""A server without HTTP: a real store and queue, a supervisor, and workers forked from this very process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from weft.serve.config import ServeConfig
from weft.serve.leases import Leases
from weft.serve.logs import Log
from weft.serve.records import FINAL, File, Job, JobDraft
from weft.serve.store import Store
from weft.serve.work import nursery, worker  # noqa: F401  (imported before the forks)
from weft.serve.work.supervisor import Supervisor
from weft.serve.work.workers import Begin, Workers
from weft.testing import save_base

WORDS = (
    *("river", "candle", "orbit", "velvet", "hammer", "pocket", "winter", "saddle", "copper", "meadow"),
    *("ladder", "violin", "anchor", "basket", "cedar", "drum", "ember", "flute", "garnet", "harbor"),
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # a pool of threads would not survive the forks


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with random weights."""
    return save_base(tmp_path_factory.mktemp("bases") / "tiny")


def chat_rows(count: int = len(WORDS)) -> list[dict[str, Any]]:
    """Rows that differ, to be learned by heart."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{WORDS[n % len(WORDS)]} number {n * 7919 % 1000}"},
                {"role": "assistant", "content": WORDS[(n + 3) % len(WORDS)]},
            ]
        }
        for n in range(count)
    ]


def forked(theirs: socket.socket, folder: Path) -> Callable[[], None]:
    """A nursery that is a fork of this process: nothing is imported again."""
    server = os.getpid()
    process = os.fork()
    if process == 0:
        # Whatever else of this process is open would keep its other ends from noticing an end.
        keep = {0, 1, 2, theirs.fileno()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        try:
            nursery.main(theirs, server)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)

    def await_end() -> None:
        os.waitpid(process, 0)

    return await_end


@dataclass
class House:
    """What a test drives. `configure` before `open`."""

    data: Path
    base: Path
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 20.0
    begin: Begin = forked
    store: Any = None
    leases: Any = None
    supervisor: Any = None

    def open(self, *, start: bool = True) -> House:
        config = ServeConfig.model_validate(
            {"data": str(self.data), "bases": (str(self.base),), "heartbeat_seconds": 0.05, "device": "cpu"}
            | self.settings
        )
        self.store = Store.open(self.data)
        self.leases = Leases(self.store, seconds=self.seconds)
        server: Any = SimpleNamespace(
            config=config, store=self.store, leases=self.leases, clock=time.time, log=Log("json")
        )
        self.supervisor = Supervisor(server, Workers(self.data / "work", begin=self.begin))
        if start:
            self.supervisor.start()
        return self

    def close(self, patience: float = 5.0) -> None:
        self.supervisor.stop(patience)
        self.store.close()

    def file(self, rows: list[Any], owner: str = "local") -> File:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        sha256, size = self.store.blobs.put([content], 1 << 20)
        return self.store.files.create(owner, "rows.jsonl", "fine-tune", sha256, size)

    def job(self, rows: list[Any] | None = None, *, owner: str = "local", **told: Any) -> Job:
        kind = told.pop("kind", "supervised")
        given = {"n_epochs": 3, "batch_size": 4} | told.pop("hyperparameters", {})
        method = {"type": kind, kind: {"hyperparameters": given}}
        file = self.file(chat_rows() if rows is None else rows, owner)
        draft = JobDraft(
            model="tiny", base=str(self.base), training_file=file.id, seed=told.pop("seed", 1), method=method,
            hyperparameters=given, extension=told.pop("extension", {"lora": {"r": 4}}), **told,
        )  # fmt: skip
        job = self.store.jobs.create(owner, draft)
        self.supervisor.wake()
        return job

    def now(self, job: Job) -> Job:
        return self.store.jobs.get(job.owner, job.id)

    def until(self, what: Callable[[], Any], seconds: float = 300.0) -> Any:
        """Wait for something to be true; what it was."""
        end = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > end:
                raise TimeoutError("it did not happen")
            time.sleep(0.02)
        return found

    def ended(self, job: Job, seconds: float = 300.0) -> Job:
        return self.until(lambda: (now := self.now(job)).status in FINAL and now, seconds)

    def events(self, job: Job) -> list[Any]:
        return list(self.store.jobs.events_since(job.owner, job.id, 0, 10_000))

    def messages(self, job: Job) -> list[str]:
        return [event.message for event in self.events(job) if event.type == "message"]

    def steps_told(self, job: Job) -> list[int]:
        return [event.data["step"] for event in self.events(job) if event.type == "metrics"]

    def adapter(self, job: Job) -> str:
        name = self.now(job).fine_tuned_model
        return self.store.models.get(job.owner, name).adapter

    def process(self, job: Job) -> int:
        """The worker's process id, once there is one."""
        return self.until(lambda: self.supervisor.processes().get(job.id))

    def kill(self, job: Job) -> None:
        """End the worker, where there is one at this moment."""
        assert self.supervisor is not None
        if process := self.supervisor.processes().get(job.id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def signal(self, job: Job, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process(job), number)


@pytest.fixture
def house(tmp_path: Path, base_folder: Path) -> Iterator[House]:
    """A server that is not open yet; closed at the end."""
    made = House(tmp_path / "data", base_folder)
    yield made
    if made.supervisor is not None:
        made.close(0.0)
