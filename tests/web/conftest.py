"""A server with its page, jobs in every state, and texts that try to be scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from tests.serve.conftest import Worker, World, a_server, chat_rows
from weft import web
from weft.serve.app import build
from weft.serve.listen import bind
from weft.serve.records import EventDraft, Job, JobDraft
from weft.serve.server import Server
from weft.testing import EchoEngine, tiny_base

ATTACK = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\"'&{{ 7919*6101 }}"


@pytest.fixture
def make_page(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Servers with their page; settings as keywords."""
    with ExitStack() as stack:

        def make(**settings: Any) -> World:
            server = a_server(tmp_path / "data", stack, **settings)
            http = TestClient(build(server, pages=[web.router]), base_url="http://127.0.0.1:8000")
            return World(server, stack.enter_context(http))

        yield make


@pytest.fixture
def seen(make_page: Callable[..., World]) -> World:
    """A server without keys and without jobs."""
    return make_page()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dict[str, Job]]]:
    """A server with a job in every state, for tests that leave nothing behind."""
    with ExitStack() as stack:
        server = a_server(tmp_path_factory.mktemp("busy") / "data", stack)
        http = TestClient(build(server, pages=[web.router]), base_url="http://127.0.0.1:8000")
        yield World(server, stack.enter_context(http)), every_state(server)


@contextmanager
def listening(data: Path, *, speaks: bool = False, **settings: Any) -> Iterator[tuple[Server, str]]:
    """(server, address) of a server with its page on a free port; a model that `speaks` says what it is asked."""
    with ExitStack() as stack:
        if speaks:
            base = tiny_base()
            settings["open_base"] = lambda name: base
            settings["start"] = lambda base: EchoEngine(base, token_seconds=0.03)
        server = a_server(data, stack, **settings)
        listener = bind(server.config)
        app = build(server, pages=[web.router])
        running = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(10)
            listener.close()


def a_job(server: Server, *, file: str = "train.jsonl", **draft: Any) -> Job:
    """A new job of `local`, in the store."""
    sha256, size = server.store.blobs.put(iter([chat_rows()]), 1 << 20)
    stored = server.store.files.create("local", file, "fine-tune", sha256, size, None)
    settings: dict[str, Any] = {
        "model": "gpt-4o-mini", "base": "weft-nano", "training_file": stored.id, "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}, "hyperparameters": {"n_epochs": 3},
    }  # fmt: skip
    return server.store.jobs.create("local", JobDraft(**settings | draft), None, None)


def losses(server: Server, job: Job, attempt: int, steps: int, total: int) -> None:
    """Metrics events with losses that fall and, every eighth step, a look at the validation rows."""
    drafts = []
    for step in range(1, steps + 1):
        loss = 0.4 + 2.8 / (1 + step / 9) + 0.12 * ((step * 7919) % 13 - 6) / 13
        data: dict[str, Any] = {"step": step, "total_steps": total, "train_loss": loss}
        if step % 8 == 0:
            data["valid_loss"] = 0.5 + 2.7 / (1 + step / 9)
        drafts.append(EventDraft(f"Step {step}/{total}: training loss={loss:.2f}", type="metrics", data=data))
    server.leases.events(job.id, attempt, drafts)


def every_state(server: Server) -> dict[str, Job]:
    """A job in each state, made in this order; texts of the paused, failed and running one are an attack."""
    worker = Worker(server)
    made: dict[str, Job] = {}
    made["succeeded"] = a_job(server, suffix="tickets")
    worker.finish()
    made["failed"] = a_job(server, file=ATTACK, suffix=ATTACK[:64], metadata={ATTACK[:60]: ATTACK})
    worker.validate()
    lease = worker.take()
    server.leases.fail(lease.job.id, lease.attempt, "exception", ATTACK, None, again=False)
    made["cancelled"] = a_job(server, suffix="by mistake")
    server.store.jobs.wish("local", made["cancelled"].id, "cancel")
    made["paused"] = a_job(server, suffix=ATTACK[64:])
    lease = worker.start()
    losses(server, made["paused"], lease.attempt, 5, 40)
    server.store.jobs.wish("local", lease.job.id, "pause")
    server.leases.released(lease.job.id, lease.attempt)
    made["running"] = a_job(server, suffix="support-mail", metadata={"ticket": "RD-12", "for": ATTACK})
    lease = worker.start()
    losses(server, made["running"], lease.attempt, 64, 120)
    server.leases.events(lease.job.id, lease.attempt, [EventDraft(f"Mind this: {ATTACK}", level="warn")])
    made["queued"] = a_job(server)
    worker.validate()
    made["validating_files"] = a_job(server, model="weft-nano", suffix="weft-nano itself")
    return made
