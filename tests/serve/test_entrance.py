"""The door: refused before any work, counted while prompts are made, nobody held up by a base that is being loaded."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.concurrency import run_in_threadpool

from tests.serve.speaking import HI, MODEL, speaking, until
from weft.generate.line import HARD, Line
from weft.generate.requests import Draw, Full, Generation, Limits
from weft.serve.config import ServeConfig
from weft.serve.engines import Engines
from weft.serve.entrance import ARRIVED, Entrance
from weft.serve.errors import ApiError
from weft.serve.known import Known
from weft.testing import EchoEngine

COUNTED: Any = SimpleNamespace(scope={ARRIVED: lambda: None})
"""A request that the guard counted in."""
FEW = Limits(rows=1, waiting=1)


def test_a_full_line_refuses_before_the_body_has_come() -> None:
    server = speaking(lambda base: EchoEngine(base, "x" * 100_000, limits=FEW, token_seconds=0.01))
    engine, body = server.server.engines("weft-tiny"), {"model": MODEL, "messages": HI, "max_tokens": 1}
    asked = [engine.submit(Generation((1,), Draw(100_000)), lambda step: None)]
    until(lambda: engine.counts().running == 1, 60)
    asked.append(engine.submit(Generation((1,), Draw(100_000)), lambda step: None))
    with server.live() as address, httpx.Client(base_url=address, timeout=60) as client:
        for path in ("/v1/chat/completions", "/v1/completions"):
            with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=60) as half:
                half.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode())
                told = half.recv(4096)
            assert told.startswith(b"HTTP/1.1 429") and b"retry-after: 1\r\n" in told, told
        assert client.post("/v1/chat/completions", json=body).status_code == 429
        assert client.get("/v1/chat/completions").status_code == 404  # only what asks an engine is refused
        for ticket in asked:
            ticket.cancel()
        until(lambda: engine.counts().running + engine.counts().waiting == 0, 60)
        assert client.post("/v1/chat/completions", json=body).is_success
    refused = [line for line in server.log if '"status": 429' in line]
    assert len(refused) == 3 and len(server.engine.asked) == 3


@dataclass(eq=False)
class Waits:
    """Something that stands in a line."""

    generation: Generation


class Lined:
    """An engine's line alone."""

    def __init__(self, limits: Limits) -> None:
        self.line: Line[Any] = Line(limits)
        self.alive = True

    def refuse(self, owner: str, ahead: int = 0, own_ahead: int = 0) -> None:
        self.line.refuse(owner, 1, 2.0, ahead=ahead, own_ahead=own_ahead)


def test_requests_whose_prompts_are_being_made_count_as_waiting() -> None:
    engine: Any = Lined(Limits(waiting=4))
    made, go = [], threading.Event()

    def make(number: int) -> int:
        go.wait(60)
        made.append(number)
        return number

    async def work() -> list[Any]:
        entrance = Entrance()
        asked = [entrance.prepared(COUNTED, engine, "ann", partial(make, number)) for number in range(7)]
        asked += [entrance.prepared(COUNTED, engine, "bob", partial(make, 10 + number)) for number in range(3)]
        crowd = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.05)
        go.set()
        told = await crowd
        assert await entrance.prepared(COUNTED, engine, "ann", partial(make, 20)) == 20  # all have left again
        return told

    told = asyncio.run(work())
    refused = [error for error in told if isinstance(error, ApiError)]
    assert told[:4] == [0, 1, 2, 3]
    assert told[7:] == [10, 11, 12]  # bob finds a full line and still has his share of it
    assert sorted(made) == [0, 1, 2, 3, 10, 11, 12, 20]
    assert {(error.status_code, error.headers["retry-after"]) for error in refused if error.headers} == {(429, "2")}


def test_a_line_counts_who_is_on_the_way_and_keeps_its_hard_bound() -> None:
    line: Line[Any] = Line(Limits(waiting=4))
    line.refuse("ann", 1, 1.0)
    with pytest.raises(Full, match=r"4 requests, 4 of them yours, at most 4 together\. Try again in 3 s"):
        line.refuse("ann", 1, 3.0, ahead=4, own_ahead=4)
    line.refuse("bob", 1, 1.0, ahead=4)
    with pytest.raises(Full, match="8 requests, 0 of them yours"):
        line.refuse("bob", 1, 1.0, ahead=4 * HARD)
    line.add(Waits(Generation((1,), Draw(1), owner="ann")), 1.0)
    with pytest.raises(Full):
        line.refuse("ann", 1, 1.0, ahead=3, own_ahead=3)


def test_requests_whose_bodies_have_not_come_count_for_their_owner_alone() -> None:
    engines: Any = SimpleNamespace(every=lambda: [Lined(Limits(waiting=2))])
    entrance = Entrance()
    leave = [entrance.come(engines, "ann") for _ in range(2)]
    with pytest.raises(ApiError, match="2 requests, 2 of them yours"):
        entrance.come(engines, "ann")
    entrance.come(engines, "bob")
    leave[0]()
    leave[0]()
    leave.append(entrance.come(engines, "ann"))
    with pytest.raises(ApiError):
        entrance.come(engines, "ann")


def test_a_base_that_is_not_there_yet_is_no_reason_to_refuse() -> None:
    engines: Any = SimpleNamespace(every=lambda: None)
    Entrance().come(engines, "ann")
    full, empty = (Lined(Limits(waiting=1)) for _ in range(2))
    full.line.add(Waits(Generation((1,), Draw(1))), 1.0)
    engines.every = lambda: [full, empty]
    Entrance().come(engines, "local")
    engines.every = lambda: [full]
    with pytest.raises(ApiError, match="the waiting line is full"):
        Entrance().come(engines, "local")


def test_requests_that_wait_for_a_base_hold_up_nothing_else() -> None:
    loads, go = [], threading.Event()

    def open_base(name: str) -> Any:
        loads.append(name)
        go.wait(60)
        if name == "broken":
            raise ValueError("no such base")
        return SimpleNamespace(name=name)

    engines = Engines(
        ServeConfig(bases=("one", "broken"), data="unused"),
        lambda identity: Path(identity),
        open_base=open_base,
        start=lambda base: SimpleNamespace(alive=True),  # type: ignore[arg-type, return-value]
    )

    async def work() -> list[Any]:
        waiting = [asyncio.create_task(engines.opened(name)) for name in ("one", "broken") for _ in range(60)]
        await asyncio.sleep(0.05)
        waiting[1].cancel()  # who goes away ends nobody's loading
        assert await asyncio.wait_for(run_in_threadpool(lambda: "free"), 30) == "free"
        go.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    told = asyncio.run(work())
    assert sorted(loads) == ["broken", "one"]
    assert told[:60].count(None) == 59 and isinstance(told[1], asyncio.CancelledError)
    assert {error.code for error in told[60:]} == {"model_broken"}
    assert engines.every() is None and engines.base("one").name == "one"


class Slow:
    """Keys whose look-up takes as long as a test likes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Any = "ann's"
        self.go: Future[None] = Future()

    def exist(self) -> bool:
        self.asked.append("exist")
        self.go.result(60)
        return True

    def find(self, secret: str) -> Any:
        self.asked.append(secret)
        self.go.result(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_crowd_with_one_key_costs_one_look_up_and_a_revoked_key_ends_with_the_next() -> None:
    keys: Any = Slow()

    async def work() -> None:
        known = Known(keys)
        crowd = [asyncio.create_task(known.find("a")) for _ in range(50)] + [asyncio.create_task(known.find("b"))]
        await asyncio.sleep(0.05)
        crowd[0].cancel()
        keys.go.set_result(None)
        told = await asyncio.gather(*crowd, return_exceptions=True)
        assert isinstance(told[0], asyncio.CancelledError) and told[1:] == ["ann's"] * 50
        assert sorted(keys.asked) == ["a", "b"]
        keys.answer = None
        assert await known.find("a") is None
        keys.answer = OSError("the disk")
        with pytest.raises(OSError, match="the disk"):
            await known.find("a")
        assert await known.exist() and await known.exist()
        assert keys.asked.count("exist") == 1

    asyncio.run(work())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_left_before_its_answer_began_frees_its_place(stream: bool) -> None:
    server = speaking(lambda base: EchoEngine(base, "x" * 200, token_seconds=0.05))
    body = json.dumps({"model": MODEL, "messages": HI, "stream": stream}).encode()
    heads = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"", "root_path": "",
        "headers": heads, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip

    async def work() -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        await asyncio.wait_for(server.app(scope, receive, send), 30)

    asyncio.run(work())
    assert [ticket.cancelled for ticket in server.engine.tickets] == [True]
