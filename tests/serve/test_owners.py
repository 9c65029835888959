"""T39: whoever holds another owner's key finds nothing, on any route that takes an id, found from the application."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from tests.serve.conftest import World, chat_rows

METHODS = ("get", "post", "delete", "put", "patch")
BODIES: dict[str, Any] = {
    "/v1/uploads/{upload_id}/complete": {"part_ids": ["part_x"]},
    "/v1/fine_tuning/checkpoints/{model}/permissions": {"project_ids": ["bob"]},
}
"""What a route wants to read before it looks for its object."""


def objects(world: World, key: str) -> dict[str, str]:
    """One object of every kind that has an id, of the owner of `key`: name of the path's parameter → id."""
    client = world.sdk(key)
    file = client.files.create(file=("train.jsonl", io.BytesIO(chat_rows())), purpose="fine-tune").id
    upload = client.uploads.create(bytes=4, filename="a", mime_type="text/plain", purpose="batch").id
    job = client.fine_tuning.jobs.create(model="weft-nano", training_file=file).id
    world.worker.finish()
    model = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
    assert model is not None
    permitted = world.http.post(
        f"/v1/fine_tuning/checkpoints/{model}/permissions",
        json={"project_ids": ["carol"]},
        headers={"authorization": f"Bearer {world.key('alice', 'admin')}"},
    )
    permission = permitted.json()["data"][0]["id"]
    return {
        "file_id": file, "upload_id": upload, "job_id": job, "fine_tuning_job_id": job, "model": model,
        "model_id": model, "permission_id": permission,
    }  # fmt: skip


def routes(world: World) -> list[tuple[str, str, list[str]]]:
    """(method, path, names of its ids) of every route with an id, but for completions: they are never stored."""
    paths = world.http.app.openapi()["paths"]  # type: ignore[attr-defined]
    found = [(method, path) for path, own in paths.items() for method in own if method in METHODS]
    return [
        (method, path, names)
        for method, path in found
        if (names := re.findall(r"{(\w+?)(?::path)?}", path)) and "completion_id" not in names
    ]


def test_every_route_with_an_id_is_a_404_for_another_owner_as_for_an_id_that_there_is_not(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    every = ("files", "jobs", "models", "chat", "admin")
    world.key("carol")
    mine, theirs = world.key("alice", *every), world.key("bob", *every)
    ids = objects(world, mine)
    known = routes(world)
    assert len(known) >= 15
    assert {name for _, _, names in known for name in names} <= set(ids), "a new kind of id: give it an object above"
    for method, path, names in known:
        answers = []
        for values in (ids, {name: _another(id_) for name, id_ in ids.items()}):
            where = re.sub(r"{(\w+?)(?::path)?}", lambda found, values=values: values[found[1]], path)
            told = _ask(world, method, path, where, theirs)
            assert told.status_code == 404, (method, where, told.text)
            said = told.text
            for name in names:
                said = said.replace(values[name], "ID")
            answers.append(said)
        assert answers[0] == answers[1], "a foreign id and an unknown one are told apart"
    print(f"T39: {len(known)} routes with an id: foreign and unknown ids are the same 404 on all")
    client = world.sdk(mine)  # and nothing of it had an effect
    assert client.files.retrieve(ids["file_id"]).id == ids["file_id"]
    assert client.uploads.cancel(ids["upload_id"]).status == "cancelled"
    assert client.models.retrieve(ids["model"]).id == ids["model"]
    assert client.fine_tuning.jobs.retrieve(ids["job_id"]).status == "succeeded"
    assert len(client.fine_tuning.jobs.list().data) == 1


def _ask(world: World, method: str, path: str, where: str, key: str) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    if path.endswith("/parts"):
        return world.http.post(where, files={"data": b"abcd"}, headers=headers)
    body = {"json": BODIES.get(path.replace(":path", ""), {})} if method in ("post", "put", "patch") else {}
    return world.http.request(method.upper(), where, headers=headers, **body)


def _another(id_: str) -> str:
    """An id of the same form that is nobody's."""
    return id_[:-4] + ("aaaa" if not id_.endswith("aaaa") else "bbbb")
