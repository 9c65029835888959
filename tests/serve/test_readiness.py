"""T35: a real engine that dies is told on /ready at once, and another takes its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serve.conftest import World
from tests.serve.speaking import HI, until
from weft.errors import Unreachable
from weft.testing import tiny_base

NOTICED_SECONDS = 5.0
BACK_SECONDS = 30.0


def broken(*_: Any) -> None:
    raise MemoryError("planned")


def test_a_database_that_does_not_answer_is_told_on_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: world.http.get("/ready").status_code == 200, 60)

    def gone() -> None:
        raise Unreachable("postgresql://there/weft: the database does not answer (cut). See that it runs.")

    with monkeypatch.context() as patch:
        patch.setattr(world.server.store, "ask", gone)
        told = world.http.get("/ready")
    assert told.status_code == 503 and told.json()["error"]["code"] == "database_unavailable"
    assert "there" not in told.text and told.headers["retry-after"] == "5"
    assert world.http.get("/health").status_code == world.http.get("/ready").status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_told_within_seconds_and_another_answers(
    live: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.generate.continuous import Engine

    base = tiny_base()
    server, address = live(open_base=lambda name: base, start=lambda base: Engine(base, lambda identity: base.folder))
    # The engine that is started in its place waits until the death was seen from outside.
    monkeypatch.setattr("weft.serve.app._TICK_SECONDS", 0.1)
    asked = {"model": "weft-nano", "messages": HI, "max_tokens": 2}

    def ready() -> httpx.Response:
        return httpx.get(f"{address}/ready", timeout=30)

    def chat() -> httpx.Response:
        return httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60)

    until(lambda: ready().status_code == 200, 60)
    first = server.engines("weft-nano")
    assert chat().status_code == 200
    revive = server.engines.revive
    monkeypatch.setattr(server.engines, "revive", list)
    monkeypatch.setattr(first, "_turn", broken)
    assert chat().json()["error"]["code"] in ("engine_error", "engine_dead")  # whether it died with it or before
    noticed = until(lambda: ready().status_code == 503, NOTICED_SECONDS)
    told = ready()
    assert told.json()["error"]["code"] == "engine_dead" and told.headers["retry-after"] == "1"
    assert httpx.get(f"{address}/health", timeout=30).status_code == 200
    assert chat().json()["error"]["code"] == "engine_dead"
    monkeypatch.setattr(server.engines, "revive", revive)
    back = until(lambda: ready().status_code == 200, BACK_SECONDS)
    assert chat().status_code == 200
    assert server.engines("weft-nano") is not first
    print(f"T35: told after {noticed:.2f} s, another after {back:.2f} s")
    server.engines("weft-nano").close()
