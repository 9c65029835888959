"""Clients in a process of their own, so that what they do costs the server's process nothing: raw HTTP, one connection
each, kept alive. `python -m tests.serve.crowd ADDRESS` reads a Plan as JSON from standard input and tells its Ends.

Nothing of weft or of a client library is imported: what is measured is the server, not the tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HUNG_SECONDS = 90.0
KEPT_SECONDS = 10.0
"""A connection that would be idle for longer is opened anew, as clients do: servers close idle ones."""


@dataclass(frozen=True)
class Plan:
    """What the clients do."""

    clients: int
    bodies: list[dict[str, Any]]
    """Request bodies, in turn; client n begins with body n."""
    seconds: float = 3600.0
    """No new request after so long; what is being answered then is let come to its end."""
    requests: int | None = None
    """At most so many requests, all clients together."""
    arrive_seconds: float = 0.0
    """The clients come one by one, spread over so long."""
    most_wait: float = 3600.0
    """A refused client comes again after `Retry-After`, or after so long if that is sooner."""
    close_after: tuple[int, int] | None = None
    """A client closes its stream after between so many and so many pieces of it (at random, seed 1), and is done."""
    keys: list[str] = field(default_factory=lambda: ["any"])
    """Client n sends key n, in turn."""
    path: str = "/v1/chat/completions"
    server: int = 0
    """The server's process id: with it, `core_seconds` are told."""


@dataclass(frozen=True)
class End:
    """What became of one request."""

    body: int
    began: float
    """Unix seconds."""
    seconds: float
    """To the end of the answer."""
    end: str
    """A finish_reason; a status; `bare 429` without `Retry-After`; `error` in a stream; `cut`, `hung`, `closed`."""
    first_seconds: float = 0.0
    """To the first byte of the answer."""
    core_seconds: float = 0.0
    """Processor time that the server and the crowd took together meanwhile: what `seconds` would have been, had both
    shared one core with nobody else."""
    text: str = ""
    cached: int = 0
    """Prompt tokens that came from the cache."""


class Crowd:
    """A crowd's process. `with Crowd(address, plan) as crowd: …; crowd.ends()`."""

    def __init__(self, address: str, plan: Plan) -> None:
        command = [sys.executable, "-m", "tests.serve.crowd", address]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asdict(plan)))
        self.process.stdin.close()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def ends(self) -> list[End]:
        """Waits until every client is done."""
        assert self.process.stdout
        told = [End(**json.loads(line)) for line in self.process.stdout]
        assert self.process.wait() == 0
        return told


def counted(ends: list[End]) -> Counter[str]:
    """How often each end was met."""
    return Counter(end.end for end in ends)


def percentile(seconds: list[float], part: float) -> float:
    """The nearest rank; 0 where there is nothing."""
    return sorted(seconds)[int(part * (len(seconds) - 1))] if seconds else 0.0


def core_seconds(process: int = 0) -> float:
    """Processor time of this process, and of another: Linux' clock of it (clock_getcpuclockid(3))."""
    try:
        other = time.clock_gettime(~process << 3 | 2) if process else 0.0
    except OSError:  # it has ended
        other = 0.0
    return other + time.process_time()


# In the process of the crowd.


class _Enough(Exception):
    """The client has read what it wanted."""


class _Clients:
    def __init__(self, address: str, plan: Plan) -> None:
        self._host, _, port = address.removeprefix("http://").rpartition(":")
        self._port, self._plan = int(port), plan
        self._until = time.monotonic() + plan.seconds
        self._left = plan.requests if plan.requests is not None else 1 << 60
        self._chance = random.Random(1)
        self.ends: list[End] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._plan.clients)))

    async def _client(self, number: int) -> None:
        plan = self._plan
        await asyncio.sleep(plan.arrive_seconds * number / plan.clients)
        way: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        key = plan.keys[number % len(plan.keys)]
        turn = number
        while time.monotonic() < self._until and self._left > 0:
            self._left -= 1
            body = turn % len(plan.bodies)
            began, clock, core = time.time(), time.perf_counter(), core_seconds(plan.server)
            told: dict[str, Any] = {}
            most = self._chance.randint(*plan.close_after) if plan.close_after is not None else None
            wait: float | None = None
            try:
                async with asyncio.timeout(HUNG_SECONDS):
                    if way is None:
                        way = await asyncio.open_connection(self._host, self._port)
                    told, wait, kept = await _ask(*way, plan, plan.bodies[body], key, most)
                if not kept:
                    way = _closed(way)
            except TimeoutError:
                told, way = {"end": "hung"}, _closed(way)
            except _Enough:
                told, way = {"end": "closed"}, _closed(way)
            except (OSError, EOFError):
                told, way = {"end": "cut"}, _closed(way)
            spent = core_seconds(plan.server) - core
            self.ends.append(End(body, began, time.perf_counter() - clock, core_seconds=spent, **told))
            if plan.close_after is not None or told["end"] in ("cut", "hung"):
                break
            if wait is not None:
                if min(wait, plan.most_wait) > KEPT_SECONDS:
                    way = _closed(way)
                await asyncio.sleep(min(wait, plan.most_wait))
            else:
                turn += plan.clients + 1
        _closed(way)


def _closed(way: tuple[Any, asyncio.StreamWriter] | None) -> None:
    if way is not None:
        way[1].close()


async def _ask(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    plan: Plan,
    body: dict[str, Any],
    key: str,
    most: int | None,
) -> tuple[dict[str, Any], float | None, bool]:
    """What is told of it, how long to wait where it was refused, whether the connection stays. Raises _Enough after
    `most` pieces."""
    sent, data = time.perf_counter(), json.dumps(body).encode()
    head = f"POST {plan.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    first = time.perf_counter() - sent
    status = int(answer[0].split()[1])
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in answer[1:] if line)}
    if "content-length" in headers:
        text = (await reader.readexactly(int(headers["content-length"]))).decode()
    else:
        text = b"".join([chunk async for chunk in _chunks(reader, most)]).decode()
    kept = headers.get("connection") != "close"
    if status != 200:
        bare = status in (429, 503) and "retry-after" not in headers
        wait = float(headers.get("retry-after", 1)) if status in (429, 503) else None
        return {"end": f"bare {status}" if bare else str(status), "first_seconds": first}, wait, kept
    return {**_read(text), "first_seconds": first}, None, kept


async def _chunks(reader: asyncio.StreamReader, most: int | None) -> AsyncIterator[bytes]:
    read = 0
    while size := int(await reader.readline() or _gone(), 16):
        yield (await reader.readexactly(size + 2))[:size]
        read += 1
        if read == most:
            raise _Enough
    await reader.readline()


def _gone() -> bytes:
    raise ConnectionResetError("the server closed the connection within an answer")


def _read(text: str) -> dict[str, Any]:
    """The end of an answer, its text and what of its prompt came from the cache."""
    if text.startswith("{"):
        told = json.loads(text)
        choice, cached = told["choices"][0], told["usage"]["prompt_tokens_details"]["cached_tokens"]
        return {"end": choice["finish_reason"], "text": choice["message"]["content"], "cached": cached}
    events = list(_events(text))
    if not events or events[-1] != "[DONE]":
        return {"end": "cut"}
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        return {"end": "error"}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return {"end": choices[-1]["finish_reason"] or "cut", "text": said}


def _events(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _main() -> None:
    plan = Plan(**json.load(sys.stdin))
    clients = _Clients(sys.argv[1], plan)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(clients.run())
    for end in clients.ends:
        print(json.dumps(asdict(end)))


if __name__ == "__main__":
    _main()
