"""Names that would be paths and addresses that would be asked: they are text, wherever they stand (T29, T43)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.audit import CONNECTIONS, PROGRAMS, REFUSED, Watch
from tests.serve.conftest import World
from tests.serve.hostile import NAMES, urls
from tests.serve.speaking import HI, MODEL, Speaking, speaking

OPENS = ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.rmdir", "os.listdir", "os.scandir")


def everywhere(world: World, name: str) -> list[tuple[str, int]]:
    """Send a name to each place that takes one: file names, ids in paths, ids in bodies; (where, status)."""
    post, told = world.http.post, []

    def note(where: str, answer: Any) -> Any:
        told.append((where, answer.status_code))
        return answer

    part = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n{{}}\r\n'
    form = part.encode(errors="surrogatepass") + (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )
    made = note("form", post("/v1/files", content=form, headers={"content-type": "multipart/form-data; boundary=x"}))
    if made.status_code == 200:
        note("content", world.http.get(f"/v1/files/{made.json()['id']}/content"))
        note("delete", world.http.delete(f"/v1/files/{made.json()['id']}"))
    json_headers = {"content-type": "application/json"}
    bodies = {
        "/v1/uploads": {"filename": name, "bytes": 2, "mime_type": name, "purpose": "batch"},
        "/v1/fine_tuning/jobs": {"model": "weft-nano", "training_file": name, "validation_file": name, "suffix": name},
        "/v1/chat/completions": {"model": name, "messages": HI},
    }
    for path, body in bodies.items():
        note(path, post(path, content=json.dumps(body), headers=json_headers))
    for segment in (quote(name, safe="", errors="replace"), quote(name, errors="replace")):
        for method, path in (
            ("GET", "/v1/files/{}"), ("DELETE", "/v1/files/{}"), ("GET", "/v1/files/{}/content"),
            ("GET", "/v1/models/{}"), ("DELETE", "/v1/models/{}"), ("GET", "/v1/fine_tuning/jobs/{}/events"),
            ("POST", "/v1/uploads/{}/cancel"), ("GET", "/v1/fine_tuning/jobs?after={}"),
        ):  # fmt: skip
            note(f"{method} {path}", world.http.request(method, path.format(segment)))
    return told


def send_names(world: World, names: Sequence[str]) -> tuple[list[str], list[tuple[str, int]]]:
    """(what was touched outside the data folder, (where, status) of every answer)."""
    everywhere(world, "train.jsonl")  # what is imported with the first request of a kind
    told = []
    with Watch(*OPENS, *PROGRAMS) as watch:
        for name in names:
            told += everywhere(world, name)
    data, libraries = world.server.store.data, (Path(sys.prefix), Path(sys.base_prefix))
    touched = []
    for event, given in watch.told:
        paths = [part for part in given if isinstance(part, str | bytes | os.PathLike)]
        if event in PROGRAMS:
            touched.append(f"{event} {given!r:.200}")
        for path in (Path(os.path.abspath(os.fsdecode(path))) for path in paths[: 2 if event == "os.rename" else 1]):
            code = path.suffix in (".py", ".pyc", ".so") and any(path.is_relative_to(place) for place in libraries)
            if not path.is_relative_to(data) and not code:
                touched.append(f"{event} {path}")
    return touched, told


def expect_text(world: World, names: Sequence[str]) -> int:
    before = {path.name for path in world.server.store.data.iterdir()} | {".keep"}
    touched, told = send_names(world, names)
    assert touched == []
    assert [where for where, status in told if status >= 500] == []
    assert {path.name for path in world.server.store.data.iterdir()} <= before
    assert world.http.get("/v1/files").json()["data"] == []
    return len(told)


def test_hostile_names_open_nothing_outside_the_data_folder(world: World) -> None:
    """T29, every thirtieth of over 300 names, each in 20 places."""
    assert len(NAMES) >= 300
    assert expect_text(world, NAMES[::30]) >= 20 * len(NAMES) // 30


@pytest.mark.slow
def test_all_hostile_names_open_nothing_outside_the_data_folder(make_world: Callable[..., World]) -> None:
    """T29."""
    world = make_world(requests_per_minute=1_000_000)
    print(f"T29: {len(NAMES)} names, {expect_text(world, NAMES)} requests")


def test_the_watch_over_names_sees_one_that_is_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard of T29 can fail: a server that takes a name for a path is caught."""
    create = world.server.store.uploads.create

    def careless(owner: str, filename: str, *given: Any, **also: Any) -> Any:
        Path(filename).is_file() and open(filename).close()
        return create(owner, filename, *given, **also)

    monkeypatch.setattr(world.server.store.uploads, "create", careless)
    assert send_names(world, ["/etc/passwd"])[0] == ["open /etc/passwd"]


def asked_with(server: Speaking, bodies: list[dict[str, Any]]) -> list[int]:
    """The statuses of chats with these fields."""

    async def work() -> list[int]:
        async with server.http() as client:
            path = "/v1/chat/completions"
            return [
                (await client.post(path, json={"model": MODEL, "messages": HI, "max_tokens": 4} | body)).status_code
                for body in bodies
            ]

    return asyncio.run(work())


def chats(url: str) -> list[dict[str, Any]]:
    """A URL in each field of a chat that takes a text or an object."""
    picture = {"type": "image_url", "image_url": {"url": url}}
    schema = {"$ref": url, "$id": url, "$schema": url, "properties": {"a": {"$ref": f"{url}#/a"}}}
    tool = {"type": "function", "function": {"name": "f", "description": url, "parameters": schema}}
    return [
        {"messages": [{"role": "user", "content": url}]},
        {"messages": [{"role": "user", "content": [picture]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": url, "file_data": url}}]}]},
        {"model": url},
        {"tools": [tool]},
        {"tools": [{"type": "mcp", "server_url": url, "server_label": "x"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"web_search_options": {"user_location": url}, "audio": {"voice": url}},
        {"metadata": {"url": url}, "user": url, "prediction": {"type": "content", "content": url}, "webhook": url},
    ]


def jobs(world: World, url: str) -> list[int]:
    """A URL in each field of a file, an upload and a job; the statuses."""
    picture = {"type": "image_url", "image_url": {"url": url}}
    row = {"messages": [{"role": "user", "content": url}, {"role": "assistant", "content": url}], "url": url}
    seen = {"messages": [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "x"}]}
    content = b"".join(json.dumps(one).encode() + b"\n" for one in (*[row] * 10, seen))
    post = world.http.post
    made = post("/v1/files", data={"purpose": "fine-tune", "callback": url}, files={"file": (url, content)})
    file = made.json()["id"]
    bare = {"model": "weft-nano", "training_file": file}
    wandb = {"type": "wandb", "wandb": {"project": url, "entity": url, "base_url": url}}
    answers = [
        made,
        post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a", url.encode())}),
        post("/v1/uploads", json={"filename": url, "bytes": 1, "mime_type": url, "purpose": "batch", "url": url}),
        post("/v1/fine_tuning/jobs", json={**bare, "metadata": {"webhook": url}, "webhook": url, "callback_url": url}),
        post("/v1/fine_tuning/jobs", json={**bare, "integrations": [wandb]}),
        post("/v1/fine_tuning/jobs", json={**bare, "training_file": url}),
        post("/v1/fine_tuning/jobs", json={**bare, "model": url, "suffix": url[:64]}),
        post("/v1/fine_tuning/jobs", json={**bare, "x_weft": {"base": url}}),
        post("/v1/webhooks", json={"url": url}),
        world.http.get("/v1/models/" + quote(url, safe="")),
        world.http.get("/v1/files", headers={"referer": url, "x-forwarded-host": url, "forwarded": f"for={url}"}),
    ]
    return [answer.status_code for answer in answers]


def judge(world: World) -> None:
    """Let the worker's part look at every file: reading, rules, the base's template."""
    from weft.data.check import check
    from weft.data.read import scan

    for file in world.server.store.files.list("local").items:
        if file.purpose == "fine-tune":
            check(scan(world.server.store.blobs.path(file.sha256)))


def expect_silence(world: World, port: int, chosen: Sequence[str]) -> None:
    server = speaking()
    asked_with(server, [{}])
    with Watch(*CONNECTIONS) as watch:
        statuses = [*itertools.chain.from_iterable(jobs(world, url) for url in chosen)]
        statuses += asked_with(server, [body for url in chosen for body in chats(url)])
        judge(world)
    assert watch.told == [] == REFUSED
    assert [status for status in statuses if status >= 500] == []
    assert {200, 400, 404} == set(statuses)


def test_no_address_in_any_field_is_ever_asked(world: World) -> None:
    """T43: every fifteenth of over 60 addresses, in 20 fields; not even of this machine, where a test listens."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        all_of_them = urls(canary.getsockname()[1])
        assert len(set(all_of_them)) >= 60
        expect_silence(world, canary.getsockname()[1], all_of_them[::15])
        canary.setblocking(False)
        with pytest.raises(BlockingIOError):
            canary.accept()


@pytest.mark.slow
def test_none_of_all_addresses_in_any_field_is_ever_asked(make_world: Callable[..., World]) -> None:
    """T43, all addresses."""
    world = make_world(requests_per_minute=1_000_000, active_jobs=100_000)
    with socket.create_server(("127.0.0.1", 0)) as canary:
        expect_silence(world, canary.getsockname()[1], urls(canary.getsockname()[1]))
        canary.setblocking(False)
        with pytest.raises(BlockingIOError):
            canary.accept()
