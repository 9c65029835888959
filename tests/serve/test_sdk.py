"""The SDK's asynchronous client and its classes of errors, over the same server; strict about every field."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import World, chat_rows


def asynchronous(world: World, key: str = "any") -> AsyncOpenAI:
    transport = httpx.ASGITransport(world.http.app)  # type: ignore[arg-type]
    return AsyncOpenAI(
        api_key=key,
        base_url="http://127.0.0.1/v1",
        http_client=httpx.AsyncClient(transport=transport),
        max_retries=0,
        _strict_response_validation=True,
    )


def test_every_method_works_asynchronously_and_strictly(world: World) -> None:
    async def walk() -> None:
        client = asynchronous(world)
        content = chat_rows()
        file = await client.files.create(file=("train.jsonl", content), purpose="fine-tune")
        assert (await client.files.wait_for_processing(file.id)).status == "processed"
        assert (await client.files.retrieve(file.id)).filename == "train.jsonl"
        assert [found.id async for found in client.files.list()] == [file.id]
        assert (await client.files.content(file.id)).content == content
        upload = await client.uploads.upload_file_chunked(
            file=b"0123456789", filename="x", bytes=10, mime_type="text/plain", purpose="batch", part_size=4
        )
        assert upload.file is not None
        announced = await client.uploads.create(bytes=4, filename="y", mime_type="text/plain", purpose="vision")
        assert (await client.uploads.cancel(announced.id)).status == "cancelled"
        job = await client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
        await asyncio.to_thread(world.worker.finish)
        done = await client.fine_tuning.jobs.retrieve(job.id)
        assert done.status == "succeeded"
        assert [found.id async for found in client.fine_tuning.jobs.list()] == [job.id]
        events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=4)]
        assert len(events) == len({event.id for event in events}) > 4
        found = [checkpoint async for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
        assert [checkpoint.step_number for checkpoint in found] == [9, 6, 3]
        other = await client.fine_tuning.jobs.create(model=str(done.fine_tuned_model), training_file=file.id)
        assert (await client.fine_tuning.jobs.cancel(other.id)).status == "cancelled"
        names = [model.id async for model in client.models.list()]
        assert done.fine_tuned_model in names
        assert (await client.models.retrieve(str(done.fine_tuned_model))).id == done.fine_tuned_model
        assert (await client.models.delete(str(done.fine_tuned_model))).deleted
        assert (await client.files.delete(file.id)).deleted

    asyncio.run(walk())


def test_each_status_becomes_the_sdks_own_exception_with_a_request_id(make_world: Callable[..., World]) -> None:
    world = make_world(active_jobs=1)
    all_scopes = world.key("local", "files", "jobs", "models", "chat")
    client, weak = world.sdk(all_scopes), world.sdk(world.key("local", "chat"))
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id

    def create(**more: Any) -> Any:
        return client.fine_tuning.jobs.create(model="weft-nano", training_file=file, **more)

    create(extra_headers={"Idempotency-Key": "k"})
    asked: list[tuple[type[openai.APIStatusError], Callable[[], Any]]] = [
        (openai.AuthenticationError, lambda: world.sdk("weft-sk-wrong").files.list()),
        (openai.PermissionDeniedError, weak.files.list),
        (openai.NotFoundError, lambda: client.files.retrieve("file-x")),
        (openai.BadRequestError, lambda: create(seed=-1)),
        (openai.RateLimitError, create),
        (openai.ConflictError, lambda: create(seed=1, extra_headers={"Idempotency-Key": "k"})),
    ]
    for kind, ask in asked:
        with pytest.raises(kind) as caught:
            ask()
        assert str(caught.value.request_id).startswith("req_")
        assert caught.value.type
        assert caught.value.body is not None


def test_a_conflict_is_not_sent_again(make_world: Callable[..., World]) -> None:
    world = make_world()
    client = openai.OpenAI(api_key="any", base_url="http://127.0.0.1/v1", http_client=world.http, max_retries=2)
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    for seed in (1, 2):
        headers = {"Idempotency-Key": "k"}
        if seed == 1:
            client.fine_tuning.jobs.create(model="weft-nano", training_file=file, seed=seed, extra_headers=headers)
            continue
        before = requests(world)
        with pytest.raises(openai.ConflictError):
            client.fine_tuning.jobs.create(model="weft-nano", training_file=file, seed=seed, extra_headers=headers)
        assert requests(world) - before == 1


def requests(world: World) -> float:
    """How many requests the server counted so far."""
    families = world.server.measures.requests.collect()
    return sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))
