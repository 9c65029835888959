"""Who may ask: keys, scopes, owners, hosts, origins, limits (T39, T41, T28, T40 in short)."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import World, chat_rows
from weft.errors import UsageError
from weft.serve.access import PUBLIC, SCOPES
from weft.serve.config import ServeConfig
from weft.serve.limits import Rates
from weft.serve.listen import open_server
from weft.serve.logs import Log


def operations(world: World) -> list[tuple[str, str]]:
    """(method, path with ids) of every route, found from the application."""
    document = world.http.app.openapi()  # type: ignore[attr-defined]
    found = [
        (method.upper(), re.sub(r"\{[^}]*\}", "ft:x", path))
        for path, own in document["paths"].items()
        for method in own
    ]
    assert len(found) > 20
    return [*found, ("GET", "/openapi.json"), ("GET", "/nowhere")]


def test_every_route_needs_a_key_but_for_the_listed_ones(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.key()
    assert len(PUBLIC) <= 4  # health, readiness, the page and its script
    for method, path in operations(world):
        expected = {200, 503} if path in PUBLIC else {401}
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer weft-sk-wrong"},
            {"authorization": "Basic eA=="},
        ):
            answer = world.http.request(method, path, headers=headers)
            assert answer.status_code in expected, (method, path)
            if answer.status_code == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"].startswith("req_")


def test_a_key_opens_what_its_scopes_say_and_nothing_else(make_world: Callable[..., World]) -> None:
    world = make_world()
    needs = {
        "/v1/files": "files", "/v1/uploads": "files", "/v1/fine_tuning/checkpoints": "admin", "/v1/fine_tuning": "jobs",
        "/v1/models": "models",
        "/v1/chat": "chat", "/v1/completions": "chat", "/v1/embeddings": "chat", "/metrics": "admin",
    }  # fmt: skip
    keys = {scope: {"authorization": f"Bearer {world.key('local', scope)}"} for scope in SCOPES}
    for method, path in operations(world):
        if path in PUBLIC or path in ("/openapi.json", "/nowhere"):
            continue
        needed = next(scope for prefix, scope in needs.items() if path.startswith(prefix))
        readers = {"models", "chat", "jobs"} if path.startswith("/v1/models") and method == "GET" else {needed}
        for scope, headers in keys.items():
            answer = world.http.request(method, path, headers=headers)
            if scope in readers:
                assert answer.status_code not in (401, 403), (method, path, scope)
            else:
                assert answer.status_code == 403, (method, path, scope)
                assert answer.json()["error"]["code"] == "missing_scope"
    for headers in keys.values():
        assert world.http.get("/v1/responses", headers=headers).status_code == 404
        assert world.http.get("/openapi.json", headers=headers).status_code in (200, 403)


def test_what_belongs_to_another_owner_is_a_404_wherever_its_id_appears(make_world: Callable[..., World]) -> None:
    world = make_world()
    mine, theirs = world.sdk(world.key("alice")), world.sdk(world.key("bob"))
    file = mine.files.create(file=("train.jsonl", io.BytesIO(chat_rows())), purpose="fine-tune").id
    upload = mine.uploads.create(bytes=4, filename="a", mime_type="text/plain", purpose="batch").id
    part = mine.uploads.parts.create(upload, data=b"abcd").id
    job = mine.fine_tuning.jobs.create(model="weft-nano", training_file=file).id
    world.worker.finish()
    model = mine.fine_tuning.jobs.retrieve(job).fine_tuned_model
    assert model is not None
    jobs = theirs.fine_tuning.jobs
    for ask in (
        lambda: theirs.files.retrieve(file),
        lambda: theirs.files.content(file),
        lambda: theirs.files.delete(file),
        lambda: theirs.uploads.parts.create(upload, data=b"abcd"),
        lambda: theirs.uploads.complete(upload, part_ids=[part]),
        lambda: theirs.uploads.cancel(upload),
        lambda: jobs.retrieve(job),
        lambda: jobs.cancel(job),
        lambda: jobs.pause(job),
        lambda: jobs.resume(job),
        lambda: jobs.list_events(job),
        lambda: jobs.checkpoints.list(job),
        lambda: theirs.models.retrieve(model),
        lambda: theirs.models.delete(model),
        lambda: theirs.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}]),
        lambda: theirs.completions.create(model=model, prompt="Hi"),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    # A cursor is a place in the order of ids, whoever's; what is listed is the caller's own.
    assert theirs.files.list(after=file).data == jobs.list(after=job).data == []
    own = theirs.files.create(file=("train.jsonl", io.BytesIO(chat_rows())), purpose="fine-tune").id
    for body in (
        {"model": "weft-nano", "training_file": file},
        {"model": "weft-nano", "training_file": own, "validation_file": file},
        {"model": model, "training_file": own},
    ):
        with pytest.raises(openai.BadRequestError, match=r"No such File|does not exist"):
            jobs.create(**body)  # type: ignore[arg-type]
    assert [*theirs.models.list()] == [model for model in mine.models.list() if not model.id.startswith("ft:")]
    assert mine.files.retrieve(file).id == file
    assert (world.server.store.data / "blobs").exists()


def test_a_revoked_or_expired_key_is_refused_within_a_second(make_world: Callable[..., World]) -> None:
    world = make_world()
    secret = world.key()
    assert world.sdk(secret).files.list().data == []
    world.server.store.keys.revoke(world.server.store.keys.list()[0].id)
    time.sleep(1)
    with pytest.raises(openai.AuthenticationError):
        world.sdk(secret).files.list()
    # All are revoked, and still nobody may come without one.
    assert world.http.get("/v1/files").status_code == 401


def test_without_keys_any_key_is_taken_on_loopback_and_the_first_key_ends_that(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    assert world.http.get("/v1/files").status_code == 200
    assert world.http.get("/v1/files", headers={"authorization": "Bearer any"}).status_code == 200
    world.key()
    assert world.http.get("/v1/files", headers={"authorization": "Bearer any"}).status_code == 401


def test_another_address_than_loopback_needs_a_key_first(make_server: Callable[..., Any], tmp_path: Any) -> None:
    config = ServeConfig(host="0.0.0.0", data=str(tmp_path / "open"), port=0)
    with pytest.raises(UsageError, match="there is no key yet"):
        open_server(config)
    closed = open_server(ServeConfig(data=config.data))
    closed.store.keys.create("first", "local")
    closed.store.close()
    open_server(config).store.close()


GOOD_HOSTS = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.9.9.9"]
BAD_HOSTS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "localhost.", "0.0.0.0", "[::]",
    "10.0.0.1", "[::ffff:10.0.0.1]", "2130706433", "0x7f.1", "", " ", "localhost:8000@evil", "localhost/evil", "[::1",
    "user@localhost", "localhost:port", "127.0.0.1:999999", "xn--localhost-",
]  # fmt: skip
BAD_ORIGINS = [
    "https://evil.example", "http://evil.example", "null", "http://localhost:9999", "https://127.0.0.1", "file://",
    "http://127.0.0.1.evil.example", "http://127.0.0.1@evil.example", "chrome-extension://abc", "", "127.0.0.1", "*",
]  # fmt: skip


def test_only_its_own_names_reach_the_server(kept: World) -> None:
    for host in GOOD_HOSTS:
        assert kept.http.get("/v1/files", headers={"host": host}).status_code == 200, host
    for host in BAD_HOSTS:
        for path in ("/v1/files", "/health"):
            answer = kept.http.get(path, headers={"host": host})
            assert answer.status_code == 403, host
            assert answer.json()["error"]["code"] == "host_not_allowed"


def test_no_page_of_another_origin_may_ask(kept: World) -> None:
    for origin in BAD_ORIGINS:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/fine_tuning/jobs"), ("OPTIONS", "/v1/files")):
            headers = {"origin": origin, "host": "127.0.0.1:8000", "access-control-request-method": "POST"}
            answer = kept.http.request(method, path, headers=headers)
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers
    for site in ("cross-site", "same-site"):
        assert kept.http.get("/v1/files", headers={"sec-fetch-site": site}).status_code == 403
    same = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}
    assert kept.http.get("/v1/files", headers=same).status_code == 200


def test_an_origin_that_the_operator_names_may_ask_and_read(make_world: Callable[..., World]) -> None:
    world = make_world(origins=("https://app.example",), hosts=("weft.example",))
    headers = {"origin": "https://app.example", "host": "weft.example"}
    before = world.http.options("/v1/files", headers={**headers, "access-control-request-method": "POST"})
    assert before.status_code == 204
    assert before.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in before.headers["access-control-allow-headers"]
    answer = world.http.get("/v1/files", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers
    assert world.http.get("/v1/files", headers={**headers, "origin": "https://app.example.evil"}).status_code == 403


def test_more_requests_than_a_minute_allows_are_429_with_a_time_to_wait(make_world: Callable[..., World]) -> None:
    world = make_world(requests_per_minute=3)
    alice, bob = world.sdk(world.key("alice")), world.sdk(world.key("bob"))
    for _ in range(3):
        alice.files.list()
    with pytest.raises(openai.RateLimitError) as caught:
        alice.files.list()
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 20
    assert bob.files.list().data == []
    assert world.http.get("/health").status_code == 200


def test_the_bucket_fills_again_and_counts_what_is_open() -> None:
    now = [0.0]
    rates = Rates(60, 2, clock=lambda: now[0])
    assert rates.enter("a")["x-ratelimit-remaining-requests"] == "59"
    rates.enter("a")
    with pytest.raises(Exception, match="at the same time"):
        rates.enter("a")
    rates.enter("b")
    rates.leave("a")
    for _ in range(57):
        rates.enter("a")
        rates.leave("a")
    rates.enter("a")
    rates.leave("a")
    with pytest.raises(Exception, match="60 requests per minute"):
        rates.enter("a")
    now[0] = 1.0
    rates.enter("a")


def test_a_sender_who_stops_in_the_middle_is_cut_off_and_holds_up_nobody(live: Callable[..., Any]) -> None:
    server, address = live(slow_seconds=0.3)
    port = int(address.rsplit(":", 1)[1])
    slow = []
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", port))
        head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(head + b"Content-Length: 100000\r\n\r\n--x\r\nContent-Disposition: form-data; ")
        slow.append(connection)
    assert httpx.get(f"{address}/v1/files").status_code == 200
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        connection.close()
    assert list((server.store.data / "tmp").iterdir()) == []


def test_secrets_and_control_characters_never_reach_log_answers_or_metrics(make_world: Callable[..., World]) -> None:
    lines = io.StringIO()
    world = make_world(log=Log(stream=lines))
    secret = world.key("local", *SCOPES)
    planted = "weft-sk-PLANTEDPLANTEDPLANTED"
    good = {"authorization": f"Bearer {secret}"}
    bodies = []
    for path in (
        f"/v1/files/{planted}",
        f"/v1/models/{secret}",
        f"/v1/fine_tuning/jobs/{planted}/events?after={secret}",
        f"/{planted}",
    ):
        for headers in ({}, good, {"authorization": f"Bearer {planted}"}, {"authorization": planted}):
            bodies.append(world.http.get(path, headers=headers).text)
    job = {"model": f"my {planted}", "training_file": secret, "suffix": "SECRET PROMPT TEXT"}
    bodies.append(world.http.post("/v1/fine_tuning/jobs", json=job, headers=good).text)
    bodies.append(world.http.get("/v1/files/%1b[31mred%0d%0aforged: line%7f", headers=good).text)
    bodies.append(world.http.get("/metrics", headers=good).text)
    told = "\n".join([*bodies, lines.getvalue()])
    for hidden in (secret, secret.rsplit("-", 1)[1], "PLANTED", "SECRET PROMPT"):
        assert hidden not in told
    log = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert len(log) == len(bodies)
    assert all(32 <= ord(c) < 127 or c == "\n" for c in lines.getvalue())
    assert {"request_id", "method", "path", "status", "seconds", "owner", "key"} <= set(log[1])


def test_what_nobody_foresaw_is_a_500_with_an_id_and_its_place_in_the_log(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.StringIO()
    world = make_world(log=Log(stream=lines))

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret row of somebody's file")

    monkeypatch.setattr(world.server.store.files, "get", broken)
    answer = world.http.get("/v1/files/file-x")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert answer.headers["x-request-id"] in error["message"]
    assert "secret" not in answer.text + lines.getvalue()
    first = json.loads(lines.getvalue().splitlines()[0])
    assert (first["event"], first["error"], first["request_id"]) == (
        "unexpected", "ZeroDivisionError", answer.headers["x-request-id"],
    )  # fmt: skip
    assert any("broken" in place for place in first["at"])


def test_many_slow_requests_at_once_count_for_their_owner_alone(live: Callable[..., Any]) -> None:
    _, address = live(concurrent_requests=3, slow_seconds=5)
    port = int(address.rsplit(":", 1)[1])
    held = []
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        held.append(connection)
    for _ in range(100):
        answer = httpx.get(f"{address}/v1/files")
        if answer.status_code == 429:
            break
        threading.Event().wait(0.02)
    assert answer.json()["error"]["message"].endswith("3 requests at the same time.")
    assert answer.headers["retry-after"] == "1"
    for connection in held:
        connection.close()
    for _ in range(100):
        if httpx.get(f"{address}/v1/files").status_code == 200:
            return
        threading.Event().wait(0.02)
    pytest.fail("closed connections still count")
