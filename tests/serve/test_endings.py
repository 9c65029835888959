"""Ends of a whole server, seen from outside: killed while it works, told to leave, asked for more than it can do.

T13, T31 and T34 with real processes and connections; each test prints its figures (`-m slow -rP` shows them).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.outside import FINAL, NEVER_ENDS, Outside, rows, tiny, until
from weft.serve.store import Store

pytestmark = pytest.mark.slow

ALIAS = ("--alias", "gpt-4o-mini=tiny", "--device", "cpu")
HUNG_SECONDS = 90


@dataclass
class Crowd:
    """Clients in threads, and what became of their requests."""

    address: str
    open: int = 0
    """Streams that have brought something and not ended."""
    told: list[tuple[str, float]] = field(default_factory=list)
    """How each request ended and after how many seconds: a finish_reason, a status, `cut`, `hung`, `bare 429`."""
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def come(self, count: int, models: list[str], tokens: int, *, again: bool, waits: float = 0.0) -> None:
        """`count` clients, each with a stream; `again`: the next one after it, `waits` seconds after a refusal."""
        for n in range(count):
            asked = (models[n % len(models)], tokens, again, waits)
            self.threads.append(threading.Thread(target=self._ask, args=asked, daemon=True))
            self.threads[-1].start()

    def leave(self, seconds: float = HUNG_SECONDS + 30) -> Counter[str]:
        """Wait for every client; how often each end was met."""
        self.stop.set()
        for thread in self.threads:
            thread.join(seconds)
        alive = sum(thread.is_alive() for thread in self.threads)
        return Counter(end for end, _ in self.told) + Counter(hung=alive)

    def _ask(self, model: str, tokens: int, again: bool, waits: float) -> None:
        question = [{"role": "user", "content": "river number 7"}]
        body = {"model": model, "messages": question, "max_tokens": tokens, "stream": True, "logit_bias": NEVER_ENDS}
        with httpx.Client(base_url=self.address, timeout=HUNG_SECONDS) as client:
            while True:
                began = time.monotonic()
                end = self._stream(client, body)
                with self.lock:
                    self.told.append((end, time.monotonic() - began))
                if self.stop.is_set() or not again or end in ("cut", "hung"):
                    return
                if end == "429":
                    time.sleep(waits)

    def _stream(self, client: httpx.Client, body: dict[str, Any]) -> str:
        begun, end = False, "cut"
        try:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    bare = answer.status_code in (429, 503) and "retry-after" not in answer.headers
                    return f"bare {answer.status_code}" if bare else str(answer.status_code)
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        return end
                    if not line.startswith("data: "):
                        continue
                    if not begun:
                        begun = True
                        self._count(1)
                    told = json.loads(line.removeprefix("data: "))
                    end = "error" if "error" in told else told["choices"][0]["finish_reason"] or end
            return "cut"
        except httpx.ReadTimeout:
            return "hung"
        except httpx.TransportError:
            return "cut"
        finally:
            if begun:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self.lock:
            self.open += change


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base whose answers may be long."""
    return tiny(tmp_path_factory.mktemp("bases") / "tiny", context=2048)


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Iterator[Any]:
    """A server over the tiny base; killed at the end if it is still there."""
    begun: list[Outside] = []

    def start(*arguments: str) -> Outside:
        begun.append(Outside(tmp_path / "home", "--base", str(base), *ALIAS, *arguments))
        return begun[-1]

    yield start
    for server in begun:
        server.process.kill()
        server.process.wait()


def three_jobs(server: Outside, file: str) -> list[str]:
    """Three jobs that differ in their seeds alone."""
    jobs = server.sdk().fine_tuning.jobs
    numbers: Any = {"n_epochs": 50, "batch_size": 4}
    return [jobs.create(model="tiny", training_file=file, seed=seed, hyperparameters=numbers).id for seed in (1, 2, 3)]


def ended(server: Outside, job: str) -> Any:
    client = server.sdk()
    return until(lambda: (now := client.fine_tuning.jobs.retrieve(job)).status in FINAL and now, 600)


def steps(server: Outside, job: str) -> list[int]:
    """Steps whose metrics were told, in order."""
    events = server.sdk().fine_tuning.jobs.list_events(job, limit=100)
    return [event.data["step"] for event in reversed(list(events)) if event.type == "metrics"]  # type: ignore[index]


def test_a_server_killed_while_three_jobs_run_and_thirty_chats_stream_ends_them_as_undisturbed(make: Any) -> None:
    server = make("--slots", "3", "--heartbeat-seconds", "0.5")
    client = server.sdk()
    file = client.files.create(file=rows(server.home / "train.jsonl", 20), purpose="fine-tune").id
    undisturbed = [ended(server, job) for job in three_jobs(server, file)]
    disturbed = three_jobs(server, file)
    crowd = Crowd(server.address)
    crowd.come(30, ["tiny", *(job.fine_tuned_model for job in undisturbed)], 1500, again=True)
    until(lambda: crowd.open == 30, 120)
    until(lambda: all(len(steps(server, job)) > 20 for job in disturbed), 300)
    assert [client.fine_tuning.jobs.retrieve(job).status for job in disturbed] == ["running"] * 3
    known = [len(steps(server, job)) for job in disturbed]
    streaming = crowd.open
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    cut = crowd.leave()
    began = time.monotonic()
    server.start()
    ready = time.monotonic() - began
    after = [ended(server, job) for job in disturbed]
    assert [job.status for job in after] == ["succeeded"] * 3, [job.error for job in after]
    told = [steps(server, job.id) for job in (*undisturbed, *after)]
    assert all(list(range(1, len(one) + 1)) == one for one in told) and len({len(one) for one in told}) == 1
    assert server.end() == 0
    store = Store.open(server.data)
    try:
        made = [store.models.get("local", str(job.fine_tuned_model)).adapter for job in (*undisturbed, *after)]
    finally:
        store.close()
    print(f"{streaming} streams open, steps {known} of {len(told[0])} at the kill; ready again after {ready:.1f} s")
    equal = sum(one == other for one, other in zip(made[:3], made[3:], strict=True))
    print(f"ends of the streams: {dict(cut)}; adapters equal: {equal}/3")
    assert streaming >= 25
    assert cut["hung"] == 0
    assert made[:3] == made[3:] and len(set(made)) == 3


def test_a_server_told_to_leave_cuts_no_stream(make: Any) -> None:
    """T34: SIGTERM with 50 streams."""
    server = make("--rows", "64", "--drain-seconds", "5")
    crowd = Crowd(server.address)
    crowd.come(50, ["tiny"], 1900, again=False)
    until(lambda: crowd.open == 50, 60)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    refused = httpx.post(f"{server.address}/v1/chat/completions", json={}, timeout=HUNG_SECONDS)
    status = server.process.wait(60)
    took = time.monotonic() - began
    ends = crowd.leave()
    print(f"50 streams at SIGTERM: {dict(ends)}; left with {status} after {took:.1f} s (drain 5 s)")
    assert (refused.status_code, status) == (503, 0) and int(refused.headers["retry-after"]) >= 1
    assert set(ends) <= {"length", "stop"} and ends.total() == 50
    assert took <= 15


def test_more_clients_than_it_can_serve_are_refused_and_none_is_hung(make: Any) -> None:
    """T31, short: 60 clients, 20 seconds, the base and three tuned models, 8 rows and a line of 16."""
    server = make("--rows", "8", "--waiting", "16")
    file = server.sdk().files.create(file=rows(server.home / "train.jsonl", 12), purpose="fine-tune").id
    numbers: Any = {"n_epochs": 3, "batch_size": 4}
    job = server.sdk().fine_tuning.jobs.create(model="tiny", training_file=file, hyperparameters=numbers)
    assert ended(server, job.id).status == "succeeded"
    models = [model.id for model in server.sdk().models.list()]
    crowd = Crowd(server.address)
    crowd.come(60, models, 60, again=True, waits=0.2)
    time.sleep(20)
    began = time.monotonic()
    ends = crowd.leave()
    normal = server.sdk().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, logit_bias={"256": -100}
    )
    back = time.monotonic() - began
    refusals = sorted(seconds for end, seconds in crowd.told if end == "429")
    late = refusals[int(0.99 * (len(refusals) - 1))] if refusals else 0.0
    print(
        f"60 clients, 20 s, {len(models)} models: {dict(ends)}; p99 to refusal {late:.3f} s; normal after {back:.1f} s"
    )
    assert normal.usage is not None
    assert set(ends) <= {"length", "429"} and ends["429"] and ends["length"]
