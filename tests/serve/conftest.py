"""A whole server in this process: the real store, routes and guard, a scripted worker, an engine that never speaks."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from openai import OpenAI
from starlette.testclient import TestClient

from weft.serve.app import build
from weft.serve.config import ServeConfig
from weft.serve.engines import Engines
from weft.serve.leases import Lease, Leases
from weft.serve.listen import bind
from weft.serve.logs import Log
from weft.serve.names import Names
from weft.serve.records import EventDraft, Job
from weft.serve.routes import jobs
from weft.serve.server import Server
from weft.serve.store import Store

ALIAS = {"gpt-4o-mini": "weft-nano"}
CSV = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.5,0.25,,\n2,1.5,0.5,1.75,0.5\n"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RELEASE_SECONDS", 0.1)  # a scripted worker lets no job go while its owner waits


class SilentEngine:
    """What an engine looks like from outside, with nothing inside."""

    def __init__(self) -> None:
        self.alive = True
        self.closed: float | None = None

    def close(self, drain_seconds: float = 0.0) -> None:
        self.closed = drain_seconds

    def refuse(self, owner: str, ahead: int = 0, own_ahead: int = 0) -> None:
        """There is always a place."""

    def counts(self) -> SimpleNamespace:
        return SimpleNamespace(running=1, waiting=2, cached_tokens=3, adapters=4, generated=5, read=6, reused=7)


@dataclass
class World:
    """A server and the ways to it."""

    server: Server
    http: TestClient

    def sdk(self, key: str = "any", *, strict: bool = True, **options: Any) -> OpenAI:
        """The real SDK over this server; it checks every field of every answer unless told otherwise."""
        client = self.http
        return OpenAI(
            api_key=key,
            base_url="http://127.0.0.1/v1",
            http_client=client,
            max_retries=0,
            _strict_response_validation=strict,
            **options,
        )

    def key(self, owner: str = "local", *scopes: str) -> str:
        """A new key's secret."""
        return self.server.store.keys.create("test", owner, scopes or ("files", "jobs", "models", "chat"))[1]

    @property
    def worker(self) -> Worker:
        return Worker(self.server)


@dataclass
class Worker:
    """Does by hand what a worker process does, one step at a time."""

    server: Server

    def take(self) -> Lease:
        lease = self.server.leases.take("test")
        assert lease is not None, "no job waits"
        return lease

    def validate(self) -> Job:
        lease = self.take()
        assert lease.phase == "validate"
        return self.server.leases.validated(lease.job.id, lease.attempt)

    def start(self) -> Lease:
        """Up to a job that runs and knows its numbers."""
        self.validate()
        lease = self.take()
        assert lease.phase == "train"
        numbers = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
        self.server.leases.settled(lease.job.id, lease.attempt, numbers, 2_000_000_000, base_sha256="b" * 64)
        return lease

    def metrics(self, lease: Lease, steps: range) -> None:
        drafts = [
            EventDraft(
                f"Step {step}/9: training loss={1 / step:.2f}",
                type="metrics",
                data={"step": step, "total_steps": 9, "train_loss": 1 / step, "train_mean_token_accuracy": 0.5},
            )
            for step in steps
        ]
        self.server.leases.events(lease.job.id, lease.attempt, drafts)

    def adapter(self, text: str) -> str:
        """The identity of a new adapter whose weights are `text`."""
        folder = self.server.store.data / f"made-{threading.get_ident()}-{text}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(text)
        return self.server.store.blobs.adopt_adapter(folder)

    def finish(self) -> Job:
        """A whole job of three epochs: nine steps, two checkpoints and the final model."""
        lease = self.start()
        job, attempt, leases = lease.job.id, lease.attempt, self.server.leases
        for epoch in (1, 2):
            self.metrics(lease, range(3 * epoch - 2, 3 * epoch + 1))
            leases.checkpoint(
                job, attempt, 3 * epoch, {"step": 3 * epoch, "full_valid_loss": 0.5}, self.adapter(f"{job}{epoch}")
            )
        self.metrics(lease, range(7, 10))
        sha256, size = self.server.store.blobs.put(iter([CSV]), 1 << 20)
        return leases.finish(
            job,
            attempt,
            self.adapter(f"{job}3"),
            1234,
            sha256,
            size,
            step=9,
            metrics={"step": 9, "full_valid_loss": 0.25},
        )


def chat_rows(count: int = 12) -> bytes:
    """A training file that is in order."""
    words = itertools.cycle(("river", "candle", "orbit", "velvet", "hammer"))
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is number {n * 7919 % 1000} in the list of {next(words)}s?"},
                {"role": "assistant", "content": f"It is {next(words)} {n}."},
            ]
        }
        for n in range(count)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def a_server(
    data: Path, stack: ExitStack, *, log: Log | None = None, open_base: Any = None, start: Any = None, **settings: Any
) -> Server:
    """A server on `data`; its store is closed with `stack`."""
    config = ServeConfig(**{"data": str(data), "alias": ALIAS, "port": 0, "log": "none", **settings})
    store = Store.open(config.folder, organisation=config.organization)
    stack.callback(store.close)
    log = log or Log(config.log)
    return Server(
        config=config,
        store=store,
        leases=Leases(store, seconds=config.lease_seconds),
        names=Names.of(config, store),
        engines=Engines(
            config,
            store.blobs.adapter,
            open_base=open_base or (lambda name: SimpleNamespace(name=name)),
            start=start or (lambda base: SilentEngine()),
            log=log,
        ),
        log=log,
    )


def a_world(server: Server, stack: ExitStack) -> World:
    """The application of `server`, up until `stack` ends."""
    http = TestClient(build(server), base_url="http://127.0.0.1", raise_server_exceptions=False)
    return World(server, stack.enter_context(http))


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers on the test's own folder; settings as keywords."""
    with ExitStack() as stack:
        yield lambda **settings: a_server(tmp_path / "data", stack, **settings)


@pytest.fixture
def make_world(make_server: Callable[..., Server]) -> Iterator[Callable[..., World]]:
    """Worlds; the application is up from their making to the test's end."""
    with ExitStack() as stack:
        yield lambda **settings: a_world(make_server(**settings), stack)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A server with default settings and no key, for this test alone."""
    return make_world()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that the tests of a module share: for those that leave nothing behind."""
    with ExitStack() as stack:
        yield a_world(a_server(tmp_path_factory.mktemp("serve") / "data", stack), stack)


@pytest.fixture
def training_file(world: World) -> str:
    """The id of a training file that is in order."""
    return world.sdk().files.create(file=("train.jsonl", io.BytesIO(chat_rows())), purpose="fine-tune").id


@pytest.fixture
def live(make_server: Callable[..., Server]) -> Iterator[Callable[..., tuple[Server, str]]]:
    """Servers that listen on a port, for what needs a real connection; (server, address)."""
    with ExitStack() as stack:

        def listen(**settings: Any) -> tuple[Server, str]:
            server = make_server(**settings)
            listener = bind(server.config)
            running = uvicorn.Server(uvicorn.Config(build(server), log_config=None, access_log=False, ws="none"))
            thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()

            def end() -> None:
                running.should_exit = True
                thread.join(10)
                listener.close()

            stack.callback(end)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            for _ in range(200):
                try:
                    httpx.get(f"{address}/health")
                    break
                except httpx.TransportError:
                    threading.Event().wait(0.02)
            return server, address

        yield listen
