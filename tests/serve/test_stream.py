"""Streams: their order, their end, and that nobody generates for a reader who is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI

from tests.serve.speaking import HI, MODEL, Speaking, speaking, until
from weft.generate.requests import Draw, Generation, Step
from weft.serve.replies import Replies
from weft.testing import EchoEngine


def lines(server: Speaking, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    """The data of a stream's events, parsed; `[DONE]` as it stands."""

    async def work() -> str:
        async with server.http() as client:
            answer = await client.post(path, json={"model": MODEL, "stream": True} | fields)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            return answer.text

    events = [line.removeprefix("data: ") for line in asyncio.run(work()).split("\n\n") if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


HELLO = speaking(lambda base: EchoEngine(base, "Héllo"))


def test_a_stream_has_the_order_of_the_contract() -> None:
    *chunks, done = lines(HELLO, messages=HI)
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [choice["delta"] for choice in choices[1:-1]] == [{"content": letter} for letter in "Héllo"]
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "stop")
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_when_it_was_asked_for() -> None:
    *chunks, usage, done = lines(HELLO, messages=HI, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len("Héllo".encode()) + 1


def test_a_stream_says_what_one_answer_says() -> None:
    for fields in (
        {"stop": "lo", "logprobs": True},
        {"max_tokens": 3},
        {"logprobs": True, "top_logprobs": 1},
        {"n": 3},
    ):
        *chunks, _ = lines(HELLO, messages=HI, **fields)
        for number in range(fields.get("n", 1)):
            own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == number]
            text = "".join(choice["delta"].get("content", "") for choice in own)
            logprobs = [entry for choice in own for entry in (choice["logprobs"] or {}).get("content", [])]
            whole = asyncio.run(_whole(HELLO, fields))["choices"][number]
            assert text == whole["message"]["content"]
            assert own[-1]["finish_reason"] == whole["finish_reason"]
            assert logprobs == (whole["logprobs"] or {}).get("content", [])


async def _whole(server: Speaking, fields: dict[str, Any]) -> Any:
    async with server.http() as client:
        return (await client.post("/v1/chat/completions", json={"model": MODEL, "messages": HI} | fields)).json()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_error_on_the_way_is_an_event_of_its_own_and_the_stream_ends(path: str) -> None:
    server = speaking(lambda base: EchoEngine(base, "abcdef", fails_after=3))
    fields = {"messages": HI} if "chat" in path else {"prompt": "x"}
    *before, error, done = lines(server, path, **fields)
    assert done == "[DONE]"
    assert set(error) == {"error"}
    assert error["error"]["type"] == "server_error"
    assert "planned" not in error["error"]["message"]
    assert len(before) >= 3


def test_the_sdk_raises_an_error_on_the_way() -> None:
    async def work() -> str:
        said = ""
        server = speaking(lambda base: EchoEngine(base, "abcdef", fails_after=3))
        stream = await server.sdk().chat.completions.create(model=MODEL, messages=HI, stream=True)  # type: ignore[arg-type]
        with pytest.raises(APIError, match="The answer broke off"):
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
        return said

    assert asyncio.run(work()) == "abc"


def slow() -> Speaking:
    return speaking(lambda base: EchoEngine(base, "x" * 1000, token_seconds=0.02))


def test_closed_connections_free_their_slots_within_a_second() -> None:
    """T33, short: streams are closed at random moments, and requests without a stream as well."""
    server, chance = slow(), random.Random(33)

    async def streaming(client: AsyncOpenAI, chunks: int) -> None:
        messages: Any = HI
        async with await client.chat.completions.create(model=MODEL, messages=messages, stream=True) as answer:
            async for _ in answer:
                chunks -= 1
                if chunks == 0:
                    return

    async def waiting(client: AsyncOpenAI) -> None:
        messages: Any = HI
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(1):
                await client.chat.completions.create(model=MODEL, messages=messages)

    async def work(address: str) -> None:
        async with AsyncOpenAI(api_key="x", base_url=f"{address}/v1", max_retries=0) as client:
            await asyncio.gather(
                *(streaming(client, chance.randint(1, 20)) for _ in range(16)), *(waiting(client) for _ in range(4))
            )

    with server.live() as address:
        asyncio.run(work(address))
        took = until(lambda: server.engine.counts().running + server.engine.counts().waiting == 0)
        generated = server.engine.counts().generated
    assert took <= 3  # a second, and what others on the machine may take away; an answer lasts twenty
    assert 16 <= len(server.engine.asked) <= 20
    assert generated < 20 * 500  # they did not simply come to their end


def test_a_stopping_engine_ends_streams_properly() -> None:
    """T34, short: no stream is cut without a finish_reason."""
    server = slow()
    with server.live() as address, httpx.Client(base_url=address, timeout=60) as client:
        body = {"model": MODEL, "messages": HI, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            events = answer.iter_lines()
            next(events)
            closing = threading.Thread(target=server.engine.close)
            closing.start()
            data = [line.removeprefix("data: ") for line in events if line.startswith("data: ")]
            closing.join()
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "length"


class Endless:
    """An engine whose steps a test gives."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.hears: list[Any] = []

    def submit(self, generation: Generation, on_step: Any) -> Endless:
        self.hears.append(on_step)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_reader_who_is_too_slow_is_cut_off_and_holds_no_memory() -> None:
    async def work() -> tuple[list[Step], int]:
        engine: Any = Endless()
        replies = Replies(engine, [Generation((1,), Draw(10))], most_waiting=50)
        for _ in range(500):
            engine.hears[0](Step((1,)))
        await asyncio.sleep(0.05)  # the reader does something else
        kept = replies._heard.qsize()
        heard = [step async for _, step in replies.steps()]
        assert engine.cancelled >= 1
        return heard, kept

    heard, kept = asyncio.run(work())
    assert len(heard) == 51
    assert kept <= 52
    assert heard[-1].error == "the stream is read too slowly"


def test_a_reader_who_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.serve import events

    monkeypatch.setattr(events, "STALLED_SECONDS", 0.05)
    server, closed = HELLO, []

    async def lines() -> AsyncGenerator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    async def work() -> None:
        sent = 0

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent > 3:
                await asyncio.sleep(60)  # a full buffer that nobody empties

        async def receive() -> Any:
            await asyncio.sleep(60)

        scope = {"type": "http", "method": "POST", "weft.request_id": "req_1"}
        await asyncio.wait_for(events.events(server.server, lines())(scope, receive, send), 5)

    asyncio.run(work())
    assert closed == [True]
    assert any("stream_stalled" in line and "req_1" in line for line in server.log)
