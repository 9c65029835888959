"""One attempt as the supervisor holds it: lease, desk, channel, log; how it begins."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from weft.serve.work.channel import Ours
from weft.serve.work.desk import Desk
from weft.serve.work.names import log_name
from weft.serve.work.protocol import Order

if TYPE_CHECKING:
    from weft.serve.leases import Lease
    from weft.serve.logs import Log
    from weft.serve.server import Server

_GB = 1_000_000_000


@dataclass(eq=False)
class Held:
    """A worker and all that belongs to it."""

    lease: Lease
    desk: Desk
    channel: Ours
    order: Order
    log: Path
    began: float = field(default_factory=time.monotonic)
    process: int | None = None
    told: str | None = None
    """`cancel`, `pause` or `stop`, once the worker was told so."""
    told_at: float = 0.0

    def say(self, log: Log, level: str, message: str, **facts: str) -> None:
        """A line in the server's log, for its operator."""
        log.say("worker", level=level, message=message, job=self.job, attempt=self.lease.attempt, **facts)

    @property
    def job(self) -> str:
        return self.lease.job.id

    @property
    def key(self) -> tuple[str, int]:
        return self.job, self.lease.attempt

    @property
    def name(self) -> str:
        return f"{self.job}:{self.lease.attempt}"


def begun(server: Server, lease: Lease, folder: Path) -> tuple[Held, socket.socket, int]:
    """The attempt of `lease`, the worker's end of its channel, and its log as a file descriptor."""
    own = folder / lease.job.id
    own.mkdir(exist_ok=True, mode=0o700)
    log = own / log_name(lease.attempt)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    ours, theirs = socket.socketpair()
    desk = Desk(lease, server.leases, server.store.blobs, own, server.clock)
    return Held(lease, desk, Ours(ours), order_of(server, lease, own), log), theirs, handle


def order_of(server: Server, lease: Lease, folder: Path) -> Order:
    """What the worker is told: paths of content by its hash, never a name that a user gave."""
    from weft.models.load import locate  # a fifth of a second of imports: a starting server does not wait

    job, config, blobs = lease.job, server.config, server.store.blobs
    kind = str(job.method.get("type", "supervised"))
    validation = blobs.path(lease.validation_sha256) if lease.validation_sha256 else None
    return Order(
        job=job.id,
        attempt=lease.attempt,
        phase=lease.phase,
        method=kind,
        folder=str(folder),
        training=str(blobs.path(lease.training_sha256)),
        training_id=job.training_file,
        validation=str(validation) if validation else None,
        validation_id=job.validation_file,
        base=Path(job.base).name,
        base_folder=str(locate(job.base).resolve()),
        start=str(blobs.adapter(job.start_from)) if job.start_from else None,
        hyperparameters=dict((job.method.get(kind) or {}).get("hyperparameters") or {}),
        extension=job.extension,
        seed=job.seed,
        device=config.device,
        threads=threads(config.slots),
        last_step=lease.last_step,
        beat_seconds=config.heartbeat_seconds,
        memory_bytes=int(config.worker_memory_gb * _GB) if config.worker_memory_gb else None,
        file_bytes=int(config.worker_file_gb * _GB),
    )


def threads(slots: int) -> int:
    """How many threads one of so many workers gets: as OMP_NUM_THREADS says, else its share of the processors."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    return max(1, len(os.sched_getaffinity(0)) // slots)
