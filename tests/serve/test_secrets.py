"""T40, what comes out: no key, nor what lies in a request that fails, in answers, log, metrics or command lines."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import World
from tests.serve.test_access import operations
from weft.serve.access import SCOPES
from weft.serve.logs import Log

FIELDS = (
    *("model", "training_file", "validation_file", "suffix", "seed", "purpose", "messages", "prompt", "stream", "n"),
    *("hyperparameters", "method", "metadata", "bytes", "filename", "part_ids", "stop", "tools", "response_format"),
)
QUERIES = ("after", "limit", "order", "purpose", "metadata[k]", "stream", "project_id", "api_key")


def request(draw: random.Random, method: str, path: str, hidden: list[str]) -> dict[str, Any]:
    """A request that holds something hidden wherever one may stand, mostly in the wrong place."""

    def some() -> Any:
        word = draw.choice(hidden)
        return draw.choice((word, [word], {word: word}, {"type": word}, {"n_epochs": word}, f"a {word} b", 7))

    asked: dict[str, Any] = {"method": method, "url": path.replace("ft:x", draw.choice((*hidden, "ft:x")))}
    asked["params"] = {name: str(some()) for name in draw.sample(QUERIES, draw.randrange(3))}
    key = draw.choice(hidden)
    asked["headers"] = draw.choice(
        ({}, {"authorization": f"Bearer {key}"}, {"authorization": f"Basic {key}"}, {"authorization": key})
    )
    if method == "POST":
        body = {name: some() for name in draw.sample(FIELDS, draw.randrange(5))}
        asked |= draw.choice(
            ({"json": body}, {"data": {name: str(value) for name, value in body.items()}},
             {"content": draw.choice(hidden).encode()}, {"files": {draw.choice(FIELDS): (key, key.encode())}})
        )  # fmt: skip
    return asked


def _command_lines() -> Iterator[str]:
    """Of every process that there is, where the system shows them (Linux)."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may have ended
            yield file.read_bytes().decode(errors="replace")


@pytest.mark.parametrize("errors", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_nothing_hidden_comes_out_by_way_of_an_error(make_world: Callable[..., World], errors: int) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw, lines = random.Random(seed), io.StringIO()
    world = make_world(log=Log(stream=lines), requests_per_minute=10_000_000, active_jobs=100_000)
    keys = [world.key(f"owner-{number}", *draw.sample(SCOPES, 1 + number % 3)) for number in range(40)]
    world.server.store.keys.revoke(keys[0][:16])
    hidden = [*keys, *("weft-sk-PLANTED0" + letter * 40 for letter in "abcd")]
    routes, met = operations(world), list[str]()
    while len(met) < errors:
        answer = world.http.request(**request(draw, *draw.choice(routes), hidden))
        assert answer.status_code < 500, (answer.request.url, answer.text)
        if answer.status_code >= 400:
            met.append(f"{answer.headers} {answer.text}")
    admin = world.key("local", "admin")
    measured = world.http.get("/metrics", headers={"authorization": f"Bearer {admin}"}).text
    processes = "\n".join(_command_lines())
    told = {"answers": "\n".join(met), "log": lines.getvalue(), "metrics": measured, "processes": processes}
    assert "weft_requests_total" in measured and told["log"].count("\n") > errors
    parts = [key.rsplit("-", 1)[1] for key in (*keys, admin)] + ["PLANTED0"]
    assert [(part, name) for name, text in told.items() for part in parts if part in text] == []
    print(f"T40: {len(met)} errors, {len(parts)} secrets")
