"""A whole server seen from outside: killed while it works, told to leave, asked for more than it can do, left by its
clients, asked for eight models at once.

T13, T31, T32, T33 and T34 with real processes and connections; each test prints its figures (`-m slow -rP` shows them).
Where a promise is a time, the clients also count the processor time that server and clients took meanwhile
(`core_seconds`): the time on one core of their own, whoever else uses the machine; that is what is held to the promise.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.crowd import Crowd, End, Plan, core_seconds, counted, percentile
from tests.serve.outside import FINAL, NEVER_ENDS, Outside, rows, tiny, until
from tests.serve.tuned import letters_model
from weft.serve.store import Store

pytestmark = pytest.mark.slow

ALIAS = ("--alias", "gpt-4o-mini=tiny", "--device", "cpu")
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base whose answers may be long."""
    return tiny(tmp_path_factory.mktemp("bases") / "tiny", context=2048)


@pytest.fixture(scope="module")
def letters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data folder with eight tuned models, each of which says its own letter; name of the model → letter."""
    data = tmp_path_factory.mktemp("letters") / "data"
    return data, letters_model(data, base, LETTERS)


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Iterator[Any]:
    """A server over the tiny base, on a copy of `data` if given; killed at the end if it is still there."""
    begun: list[Outside] = []

    def start(*arguments: str, data: Path | None = None) -> Outside:
        home = tmp_path / f"home-{len(begun)}"
        if data is not None:
            shutil.copytree(data, home / "data")
        begun.append(Outside(home, "--base", str(base), *ALIAS, *arguments))
        return begun[-1]

    yield start
    for server in begun:
        server.process.kill()
        server.process.wait()


def stream(model: str, tokens: int) -> dict[str, Any]:
    """A request whose answer lasts until its limit."""
    question = [{"role": "user", "content": "river number 7"}]
    return {"model": model, "messages": question, "max_tokens": tokens, "stream": True, "logit_bias": NEVER_ENDS}


def standing(server: Outside) -> dict[str, float]:
    """How the engine of the tiny base stands, as /metrics tells it."""
    text = httpx.get(f"{server.address}/metrics", timeout=60).text
    found = re.findall(r'^weft_engine\{base="tiny",what="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {what: float(value) for what, value in found}


def three_jobs(server: Outside, file: str) -> list[str]:
    """Three jobs that differ in their seeds alone."""
    jobs = server.sdk().fine_tuning.jobs
    numbers: Any = {"n_epochs": 16, "batch_size": 4}
    return [jobs.create(model="tiny", training_file=file, seed=seed, hyperparameters=numbers).id for seed in (1, 2, 3)]


def ended(server: Outside, job: str) -> Any:
    client = server.sdk()
    return until(lambda: (now := client.fine_tuning.jobs.retrieve(job)).status in FINAL and now, 600)


def steps(server: Outside, job: str) -> list[int]:
    """Steps whose metrics were told, in order."""
    events = server.sdk().fine_tuning.jobs.list_events(job, limit=100)
    return [event.data["step"] for event in reversed(list(events)) if event.type == "metrics"]  # type: ignore[index]


def test_a_server_killed_while_three_jobs_run_and_fifty_chats_stream_ends_them_as_undisturbed(make: Any) -> None:
    server = make("--slots", "3", "--heartbeat-seconds", "0.5", "--rows", "64")
    client = server.sdk()
    file = client.files.create(file=rows(server.home / "train.jsonl", 20), purpose="fine-tune").id
    undisturbed = [ended(server, job) for job in three_jobs(server, file)]
    disturbed = three_jobs(server, file)
    bodies = [stream(model, 1500) for model in ("tiny", *(job.fine_tuned_model for job in undisturbed))]
    with Crowd(server.address, Plan(50, bodies)) as crowd:
        until(lambda: standing(server)["running"] == 50, 300)
        until(lambda: all(len(steps(server, job)) > 20 for job in disturbed), 600)
        assert [client.fine_tuning.jobs.retrieve(job).status for job in disturbed] == ["running"] * 3
        known, streaming = [len(steps(server, job)) for job in disturbed], standing(server)["running"]
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        cut = counted(crowd.ends())
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
    print(f"{streaming:.0f} streams open, steps {known} of {len(told[0])} at the kill; ready again after {ready:.1f} s")
    equal = sum(one == other for one, other in zip(made[:3], made[3:], strict=True))
    print(f"ends of the streams: {dict(cut)}; adapters equal: {equal}/3")
    assert streaming >= 45 and cut["cut"] == 50 and cut["hung"] == 0
    assert made[:3] == made[3:] and len(set(made)) == 3


def test_a_server_told_to_leave_cuts_no_stream(make: Any) -> None:
    """T34: SIGTERM with 50 streams."""
    server = make("--rows", "64", "--drain-seconds", "10")
    with Crowd(server.address, Plan(50, [stream("tiny", 1900)], requests=50)) as crowd:
        until(lambda: standing(server)["running"] == 50, 120)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        refused = httpx.post(f"{server.address}/v1/chat/completions", json={}, timeout=60)
        status = server.process.wait(180)
        took = time.monotonic() - began
        ends = counted(crowd.ends())
    print(f"T34: 50 streams at SIGTERM: {dict(ends)}; left with {status} after {took:.1f} s (drain 10 s)")
    assert (refused.status_code, status) == (503, 0) and int(refused.headers["retry-after"]) >= 1
    assert set(ends) <= {"length", "stop"} and ends.total() == 50
    assert took <= 25


def alone(server: Outside) -> tuple[int, float]:
    """Status of one small request, and the server's processor time for it."""
    began = core_seconds(server.process.pid)
    told = httpx.post(f"{server.address}/v1/chat/completions", json=stream("tiny", 8) | {"stream": False}, timeout=60)
    return told.status_code, core_seconds(server.process.pid) - began


@pytest.mark.parametrize("seconds", [300])
def test_more_clients_than_it_can_serve_are_refused_at_once_and_none_is_hung(
    make: Any, letters: Any, seconds: float
) -> None:
    """T31: 200 clients that come again when `Retry-After` says so, five minutes, the base and eight tuned models."""
    data, models = letters
    server = make("--rows", "8", "--waiting", "16", data=data)
    usual = sorted(alone(server)[1] for _ in range(7))[3]
    bodies = [stream(model, 60) for model in ("tiny", *models)]
    plan = Plan(200, bodies, seconds, arrive_seconds=2.0, server=server.process.pid)
    with Crowd(server.address, plan) as crowd:
        ends = crowd.ends()
    gone = time.monotonic()
    until(lambda: (now := alone(server))[0] == 200 and now[1] <= 2 * usual, 60)
    normal = time.monotonic() - gone
    refused = [end for end in ends if end.end == "429"]
    late = percentile([end.core_seconds for end in refused], 0.99)
    print(
        f"T31: 200 clients, {seconds:.0f} s, {len(bodies)} models: {dict(counted(ends))}; normal after {normal:.1f} s"
    )
    print(f"refused, p50 and p99: {said(refused, 0.5)}, {said(refused, 0.99)}; in the server {inside(server)}")
    assert server.end() == 0
    assert set(counted(ends)) == {"length", "429"}
    assert late <= 0.25 and normal <= 10


def said(ends: list[End], part: float) -> str:
    wall, core = [end.seconds for end in ends], [end.core_seconds for end in ends]
    return f"{percentile(wall, part):.3f} s ({percentile(core, part):.3f} s of the core)"


def inside(server: Outside) -> str:
    """What the server's own log says of its refusals: from a request's head to the end of its answer."""
    lines = [line for line in (server.home / "serve-1.log").read_text().splitlines() if '"status": 429' in line]
    seconds = [json.loads(line)["seconds"] for line in lines]
    return f"p50 {percentile(seconds, 0.5):.3f} s, p99 {percentile(seconds, 0.99):.3f} s of {len(seconds)}"


@pytest.mark.parametrize("cache", ["256", "0"], ids=["cached", "not cached"])
def test_no_model_ever_says_the_word_of_another(make: Any, letters: Any, cache: str) -> None:
    """T32: eight models, a shared beginning, 64 requests in flight, 2,000 in all."""
    data, models = letters
    server = make("--rows", "64", "--waiting", "64", "--prefix-mb", cache, data=data)
    beginning = {"role": "system", "content": "You sort letters. " * 12}
    bodies = [
        {
            "model": model,
            "messages": [beginning, {"role": "user", "content": f"number {n}"}],
            "max_tokens": 3,
            "temperature": 0,
        }
        for n in range(65)
        for model in models
    ]
    with Crowd(server.address, Plan(64, bodies, requests=2000)) as crowd:
        ends = crowd.ends()
    expected = [models[str(bodies[end.body]["model"])] * 3 for end in ends]
    foreign = [end.text for end, own in zip(ends, expected, strict=True) if set(end.text) & set(LETTERS) - set(own)]
    own = sum(end.text == word for end, word in zip(ends, expected, strict=True))
    reused = sum(end.cached > 0 for end in ends)
    print(f"T32, prefix cache {cache} MB: {len(ends)} answers, {own} their own word, {len(foreign)} with a foreign one")
    print(f"answers with a beginning from the cache: {reused}; {dict(counted(ends))}")
    assert server.end() == 0
    assert len(ends) == own == 2000 and foreign == []
    assert (reused > 1000) == (cache != "0") and (reused == 0) == (cache == "0")


def test_streams_that_their_readers_leave_end_within_a_second_and_give_their_slots_back(make: Any) -> None:
    """T33: 100 streams closed at random moments."""
    server = make("--rows", "128")
    with Crowd(server.address, Plan(100, [stream("tiny", 1900)], close_after=(1.0, 8.0))) as crowd:
        most, told = 0.0, standing(server)
        while crowd.process.poll() is None:
            told = standing(server)
            most = max(most, told["running"])
        ends = crowd.ends()
    gone, core = time.time(), core_seconds(server.process.pid)
    until(lambda: (now := standing(server))["running"] + now["waiting"] == 0, 60)
    core, wall = core_seconds(server.process.pid) - core, time.time() - gone
    told = standing(server)
    with Crowd(server.address, Plan(100, [stream("tiny", 4)], requests=100)) as crowd:
        again = counted(crowd.ends())
    print(f"T33: {dict(counted(ends))}, at most {most:.0f} at once, {told['generated']:.0f} tokens of 190,000")
    print(f"all slots free {wall:.2f} s ({core:.2f} s of the core) after the last one; then {dict(again)}")
    assert server.end() == 0
    assert counted(ends) == {"closed": 100} and most >= 50 and told["generated"] < 100 * 1900 / 2
    assert core <= 1
    assert again == {"length": 100}
