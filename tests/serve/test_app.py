"""The application as a whole: envelopes, health and readiness, metrics, the OpenAPI document, starting and stopping."""

from __future__ import annotations

import io
import json
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.serve.conftest import SilentEngine, World
from weft.errors import DataError, ModelError, NotThere, ResourceError, TooLarge, Unreachable, UsageError, WrongState
from weft.generate.requests import Full
from weft.serve.app import build
from weft.serve.errors import ApiError, masked, translate
from weft.serve.listen import Uvicorn, bind
from weft.serve.logs import Log
from weft.testing import EchoEngine, tiny_base
from weft.web import router as page

ENVELOPE = {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("GET", "/v1/files/", 404, "unknown_url"),
        ("PUT", "/v1/files", 405, "method_not_supported"),
        ("PATCH", "/v1/fine_tuning/jobs/ftjob-x", 405, "method_not_supported"),
        ("TRACE", "/v1/models", 405, "method_not_supported"),
        ("POST", "/health", 405, "method_not_supported"),
        ("GET", "/docs", 404, "unknown_url"),
    ],
)
def test_what_is_not_there_is_said_in_the_envelope(kept: World, method: str, path: str, status: int, code: str) -> None:
    answer = kept.http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == ENVELOPE
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-request-id"].startswith("req_")
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotThere("file", "file-x"), 404, None),
        (NotThere("job", "ftjob-x"), 404, "fine_tune_not_found"),
        (NotThere("model", "m"), 404, "model_not_found"),
        (TooLarge("much", 3), 413, "request_too_large"),
        (WrongState("done", "failed"), 400, "wrong_state"),
        (Full("later", 2.2), 429, "rate_limit_exceeded"),
        (DataError("bad rows"), 400, None),
        (UsageError("bad ask"), 400, None),
        (ResourceError("/secret/path: no space"), 507, None),
        (Unreachable("postgresql://secret/path: does not answer"), 503, "database_unavailable"),
    ],
)
def test_each_error_of_weft_has_its_answer(error: Exception, status: int, code: str | None) -> None:
    known = translate(error)
    assert known is not None
    assert (known.status_code, known.code) == (status, code)
    assert set(known.envelope()["error"]) == ENVELOPE
    assert "/secret/path" not in known.message
    if status == 429:
        assert known.headers is not None
        assert known.headers["retry-after"] == "3"


def test_an_error_that_is_not_the_callers_fault_is_left_to_the_log() -> None:
    assert translate(ModelError("broken")) is None
    assert translate(ZeroDivisionError()) is None


def test_secret_keys_are_masked_in_every_sentence() -> None:
    said = "not weft-sk-abcdefgh1234-XYZ nor sk-proj-aaaaaaaaaaaa nor hf_AbCdEfGhIj; a task-oriented disk-drive stays"
    assert masked(said) == "not weft-sk-*** nor sk-*** nor hf_***; a task-oriented disk-drive stays"


def test_health_is_there_at_once_and_readiness_when_the_model_is(make_world: Callable[..., World]) -> None:
    """T35; with a real engine in test_readiness.py."""
    go, dead = threading.Event(), threading.Event()
    engines: list[SilentEngine] = []

    def open_base(name: str) -> Any:
        go.wait(10)
        return object()

    def start(base: Any) -> SilentEngine:
        if dead.is_set():
            raise ModelError("no second engine")
        engines.append(SilentEngine())
        return engines[-1]

    world = make_world(open_base=open_base, start=start)
    assert world.http.get("/health").json() == {"status": "ok"}
    loading = world.http.get("/ready")
    assert (loading.status_code, loading.json()["error"]["code"]) == (503, "loading")
    assert loading.headers["retry-after"] == "1"
    go.set()
    world.server.engines("weft-nano")
    assert world.http.get("/ready").status_code == 200
    engines[0].alive = False
    broken = world.http.get("/ready")
    assert (broken.status_code, broken.json()["error"]["code"]) == (503, "engine_dead")
    assert world.server.engines.revive() == ["the engine of weft-nano had stopped; another was started"]
    assert engines[0].closed == 0
    assert world.http.get("/ready").status_code == 200


def test_a_base_that_cannot_be_loaded_is_said_without_its_path_and_tried_again_later(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    broken.set()

    def open_base(name: str) -> Any:
        if broken.is_set():
            raise ModelError("/models/secret: damaged")
        return object()

    said = io.StringIO()
    world = make_world(open_base=open_base, log=Log(stream=said))
    with pytest.raises(ApiError, match="cannot be loaded"):
        world.server.engines("weft-nano")
    line = json.loads(said.getvalue().splitlines()[0])  # at once, and not when it is tried again
    assert (line["event"], line["level"]) == ("engine", "error")
    assert line["message"] == "weft-nano could not be loaded (ModelError: /models/secret: damaged)"
    chat = {"model": "weft-nano", "messages": [{"role": "user", "content": "Hi"}]}
    for answer in (world.http.get("/ready"), world.http.post("/v1/chat/completions", json=chat)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_broken")
        assert answer.json()["error"]["type"] == "server_error"
        assert "/models/secret" not in answer.text
    assert world.server.engines.revive() == []
    broken.clear()
    monkeypatch.setattr("weft.serve.engines._RETRY_SECONDS", -1.0)
    assert "the next request tries again" in world.server.engines.revive()[0]
    assert world.http.get("/ready").json()["error"]["code"] == "model_broken"  # nobody is loading it
    assert world.server.engines("weft-nano").alive
    assert world.http.get("/ready").status_code == 200


def test_a_server_that_drains_admits_nothing_new_and_says_when_to_come_back(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.server.draining.set()
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/chat/completions"), ("GET", "/ready")):
        answer = world.http.request(method, path)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "draining"
        assert int(answer.headers["retry-after"]) >= 1
    assert world.http.get("/health").status_code == 200


def test_what_works_beside_the_server_starts_and_ends_with_it(make_server: Callable[..., Any]) -> None:
    told: list[str] = []

    class Beside:
        def __init__(self, server: Any) -> None:
            told.append("made")

        def start(self) -> None:
            told.append("started")

        def stop(self) -> None:
            told.append("stopped")

    server = make_server()
    with TestClient(build(server, background=Beside), base_url="http://127.0.0.1"):
        engine = server.engines("weft-nano")
        assert told == ["made", "started"]
    assert told == ["made", "started", "stopped"]
    assert server.draining.is_set()
    assert engine.closed == server.config.drain_seconds


def test_metrics_are_in_prometheus_format_without_any_id_or_owner(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.server.engines("weft-nano")
    world.http.get("/v1/files/file-OneTwoThree")
    world.http.get("/v1/files/file-FourFive")
    world.http.request("BREW", "/nowhere/file-Six")
    text = world.http.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["weft_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counts["GET", "/v1/files/{file_id}", "404"] == 2
    assert counts["other", "unknown", "404"] == 1
    assert {sample.labels["what"] for sample in families["weft_engine"].samples} >= {"running", "waiting", "adapters"}
    assert "weft_jobs" in families
    assert "OneTwo" not in text


def test_every_url_that_there_is_counts_under_its_own_route(make_server: Callable[..., Any]) -> None:
    server = make_server()
    asked = {"/": "/", "/page.js": "/page.js", "/openapi.json": "/openapi.json", "/v1/nowhere": "unknown",
             "/v1/files/file-x": "/v1/files/{file_id}", "/wp-admin": "unknown"}  # fmt: skip
    with TestClient(build(server, pages=[page]), base_url="http://127.0.0.1") as http:
        for path in asked:
            http.get(path)
        server.store.keys.create("test", "local", ("chat",))
        assert http.get("/v1/models").status_code == 401  # refused before it came to its route
    (family,) = (one for one in server.measures.requests.collect())
    counted = {sample.labels["route"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert counted == {route: 1 for route in asked.values()} | {"unknown": 2, "/v1/models": 1}


@pytest.mark.parametrize(
    ("header", "came"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, "it came as application/x-www-form-urlencoded."),
        ({"content-type": "text/plain; charset=utf-8"}, "it came as text/plain."),
        ({}, "it came without that header."),
    ],
)
def test_json_that_does_not_call_itself_json_is_told_the_header(kept: World, header: dict[str, str], came: str) -> None:
    document = kept.http.get("/openapi.json").json()["paths"]
    routes = [path for path, operations in document.items() if "application/json" in
              operations.get("post", {}).get("requestBody", {}).get("content", {})]  # fmt: skip
    assert len(routes) >= 5
    for path in routes:
        answer = kept.http.post(
            path.replace("{", "").replace("}", ""), content=b'{"model": "weft-nano"}', headers=header
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_content_type"), path
        assert error["message"].startswith("Send the body as JSON with the header `content-type: application/json`; ")
        assert error["message"].endswith(came)


def test_each_kind_that_a_field_may_have_is_named(kept: World) -> None:
    asked = {"model": "weft-nano", "messages": [{"role": "user", "content": "Hi"}], "tool_choice": 3}
    error = kept.http.post("/v1/chat/completions", json=asked).json()["error"]
    assert error["message"] == ("tool_choice: Input should be a valid string or: Input should be a valid dictionary")
    assert error["param"] == "tool_choice"


def test_the_document_tells_of_envelopes_and_keys_and_never_of_422(kept: World) -> None:
    document = kept.http.get("/openapi.json").json()
    paths = document["paths"]
    assert {"/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs", "/v1/models", "/health", "/metrics"} <= set(paths)
    for path, operations in paths.items():
        for name, operation in operations.items():
            assert "422" not in operation["responses"], path
            if path in ("/health", "/ready"):
                assert "security" not in operation
                continue
            assert operation["security"] == [{"key": []}]
            for status in ("400", "401", "403", "429", "500", "503"):
                shape = operation["responses"][status]["content"]["application/json"]["schema"]["$ref"]
                assert shape.endswith("/ErrorEnvelope"), (path, name, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in paths.items():
        asked = kept.http.request("TRACE", re.sub(r"\{[^}]*\}", "x", path))
        assert asked.status_code == 405
        assert asked.headers["allow"].split(", ") == sorted(name.upper() for name in operations), path
        for operation in operations.values():
            named = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)", path))
    form = paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "purpose"]


def test_a_signal_lets_answers_end_and_admits_nothing_new(make_server: Callable[..., Any]) -> None:
    base = tiny_base()
    server = make_server(
        open_base=lambda name: base, start=lambda base: EchoEngine(base, "a b c d e f g h", token_seconds=0.05)
    )
    listener = bind(server.config)
    running = Uvicorn(server, build(server))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = openai.OpenAI(api_key="any", base_url=f"{address}/v1", max_retries=0)
    messages: Any = [{"role": "user", "content": "Hi"}]
    streams = [
        iter(client.chat.completions.create(model="weft-nano", messages=messages, stream=True)) for _ in range(4)
    ]
    for stream in streams:
        next(stream)
    running.handle_exit(signal.SIGTERM, None)
    refused = httpx.get(f"{address}/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    for stream in streams:
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
    thread.join(10)
    assert not thread.is_alive()
    listener.close()
