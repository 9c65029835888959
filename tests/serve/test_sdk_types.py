"""Every method of the contract through the SDK's strict mode, synchronous and not, and each field by the SDK's types.

What those types themselves cannot say is listed here word by word: the hosted API's own answers break them too. A
client that prefers declared values hears none of it, and passes everywhere.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from tests.serve.conftest import World, a_server, a_world, chat_rows
from tests.serve.speaking import CALL, HERMES, HI, TOOL
from tests.serve.typed import Held, HoldingAsyncOpenAI, HoldingOpenAI
from weft.testing import EchoEngine, tiny_base

MODEL = "gpt-4o-mini"
ANSWERS = {
    *(
        "FileObject",
        "FileDeleted",
        "Upload",
        "UploadPart",
        "FineTuningJob",
        "FineTuningJobEvent",
        "Model",
        "ModelDeleted",
    ),
    *("CursorPage", "Page", "ConversationCursorPage", "PermissionRetrieveResponse", "PermissionDeleteResponse"),
    *("ChatCompletion", "ChatCompletionChunk", "Completion"),
}
"""The SDK's types of answers that the walk meets."""
OURS = {
    *(("FineTuningJob", field) for field in ("user_provided_suffix", "shared_with_openai", "x_weft")),
    ("Model", "x_weft_base"),
    # Fields of the contract's lists that the SDK's pages leave out.
    *(("CursorPage", field) for field in ("object", "first_id", "last_id")),
    *(("Page", field) for field in ("has_more", "first_id", "last_id")),
    *(("ConversationCursorPage", field) for field in ("object", "first_id")),
}
"""The fields of answers that the SDK's types do not know; it keeps them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server whose base says a tool call to everything."""
    base = replace(tiny_base(template=HERMES), context=2048)
    with ExitStack() as stack:
        server = a_server(
            tmp_path_factory.mktemp("types") / "data",
            stack,
            open_base=lambda name: base,
            start=lambda base: EchoEngine(base, CALL),
        )
        yield a_world(server, stack)


@pytest.fixture(scope="module")
def key(world: World) -> str:
    return world.key("local", "files", "jobs", "models", "chat", "admin")


def client_of(world: World, key: str, kind: str, *, strict: bool = True, declared: bool = False) -> Any:
    """A client that holds each answer against its type; `declared`: and asks for declared values alone."""
    settings: dict[str, Any] = {
        "api_key": key, "base_url": "http://127.0.0.1/v1", "max_retries": 0, "_strict_response_validation": strict,
        "default_headers": {"Prefer": "declared-values"} if declared else {},
    }  # fmt: skip
    if kind == "synchronous":
        client: Any = HoldingOpenAI(**settings, http_client=world.http)  # type: ignore[arg-type]
    else:
        transport = httpx.ASGITransport(world.http.app)  # type: ignore[arg-type]
        client = HoldingAsyncOpenAI(**settings, http_client=httpx.AsyncClient(transport=transport))  # type: ignore[arg-type]
    client.held = Held()
    return client


async def got(asked: Any) -> Any:
    """The answer, of either client."""
    return await asked if inspect.isawaitable(asked) else asked


async def every(asked: Any) -> list[Any]:
    """All items of all pages, or all chunks of a stream, of either client."""
    if not hasattr(asked, "__aiter__"):
        asked = await got(asked)
    return [item async for item in asked] if hasattr(asked, "__aiter__") else list(asked)


async def walk_files(client: Any) -> str:
    """Every method of files and uploads; the id of a training file."""
    content = chat_rows()
    file = await got(client.files.create(file=("train.jsonl", content), purpose="fine-tune"))
    assert (await got(client.files.wait_for_processing(file.id))).status == "processed"
    assert (await got(client.files.retrieve(file.id))).filename == "train.jsonl"
    assert (await got(client.files.content(file.id))).content == content
    lives = {"anchor": "created_at", "seconds": 3600}
    other = await got(client.files.create(file=("x.txt", b"x"), purpose="user_data", expires_after=lives))
    assert {file.id, other.id} <= {found.id for found in await every(client.files.list(limit=1))}
    assert (await got(client.files.delete(other.id))).deleted
    told: dict[str, Any] = {"filename": "y", "bytes": 10, "mime_type": "text/plain", "purpose": "batch"}
    whole = await got(client.uploads.upload_file_chunked(file=b"0123456789", part_size=4, **told))
    assert whole.file is not None and whole.file.bytes == 10
    announced = await got(client.uploads.create(**told))
    part = await got(client.uploads.parts.create(announced.id, data=b"0123456789"))
    assert (await got(client.uploads.complete(announced.id, part_ids=[part.id]))).status == "completed"
    unwanted = await got(client.uploads.create(**told))
    assert (await got(client.uploads.cancel(unwanted.id))).status == "cancelled"
    return file.id


async def walk_jobs(client: Any, world: World, file: str) -> str:
    """Every method of jobs in every state but `paused`; the name of the tuned model."""
    jobs, worker, leases = client.fine_tuning.jobs, world.worker, world.server.leases
    job = await got(
        jobs.create(model=MODEL, training_file=file, hyperparameters={"n_epochs": 3}, suffix="s", metadata={"a": "b"})
    )
    assert (job.status, job.method.supervised.hyperparameters.n_epochs) == ("validating_files", 3)
    lease = await asyncio.to_thread(worker.start)
    assert (await got(jobs.pause(job.id))).status == "running"
    assert leases.beat(job.id, lease.attempt) == "pause"
    leases.released(job.id, lease.attempt)
    assert (await got(jobs.resume(job.id))).status == "queued"
    await asyncio.to_thread(_finish_queued, world)
    done = await got(jobs.retrieve(job.id))
    assert done.status == "succeeded"
    events = await every(jobs.list_events(job.id, limit=4))
    assert len(events) == len({event.id for event in events}) > 4
    await asyncio.to_thread(_hold_live_events, client, world, job.id, len(events))
    points = await every(jobs.checkpoints.list(job.id, limit=1))
    assert [point.step_number for point in points] == [9]
    assert (await got(client.files.content(done.result_files[0]))).text.startswith("step,train_loss")
    pairs = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5}}}
    other = await got(jobs.create(model=done.fine_tuned_model, training_file=file, method=pairs))
    assert (await got(jobs.cancel(other.id))).status == "cancelled"
    broken = await got(jobs.create(model=MODEL, training_file=file, validation_file=None, seed=1))
    lease = worker.take()
    leases.fail(broken.id, lease.attempt, "invalid_training_file", "row 1", "training_file")
    assert (await got(jobs.retrieve(broken.id))).error.code == "invalid_training_file"
    assert {job.id, other.id, broken.id} <= {found.id for found in await every(jobs.list(limit=1))}
    return done.fine_tuned_model


def _hold_live_events(client: Any, world: World, job: str, count: int) -> None:
    """The SDK has no method that follows a job; its type of an event holds for those that are streamed as well."""
    told = world.http.get(
        f"/v1/fine_tuning/jobs/{job}/events?stream=true", headers={"authorization": f"Bearer {client.api_key}"}
    )
    *lines, done = [line[6:] for line in told.text.split("\n") if line.startswith("data: ")]
    assert (done, len(lines)) == ("[DONE]", count)
    for line in lines:
        client.held.hold(FineTuningJobEvent, json.loads(line))


def _finish_queued(world: World) -> None:
    """What a worker does with a job that was resumed: its last epoch, then the end."""
    lease, leases = world.worker.take(), world.server.leases
    world.worker.metrics(lease, range(7, 10))
    sha256, size = world.server.store.blobs.put(iter([b"step,train_loss\n9,1.5\n"]), 1 << 20)
    adapter = world.worker.adapter(lease.job.id)
    leases.finish(lease.job.id, lease.attempt, adapter, 9, sha256, size, step=9, metrics={"full_valid_loss": 1.5})


async def walk_models(client: Any, model: str) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    (given,) = await every(permissions.create(model, project_ids=["local"]))
    assert [found.id for found in await every(permissions.list(model))] == [given.id]
    with pytest.warns(DeprecationWarning):
        assert (await got(permissions.retrieve(model))).first_id == given.id
    assert (await got(permissions.delete(given.id, fine_tuned_model_checkpoint=model))).deleted
    assert model in [found.id for found in await every(client.models.list())]
    assert (await got(client.models.retrieve(model))).id == model
    await walk_answers(client, model)
    assert (await got(client.models.delete(model))).deleted


async def walk_answers(client: Any, model: str) -> None:
    """Chat and completions with everything that adds fields; streams of completions have a test of their own."""
    chat = client.chat.completions
    plain = await got(chat.create(model=model, messages=HI, n=2, logprobs=True, top_logprobs=2))
    assert plain.choices[1].logprobs.content[0].top_logprobs
    called = await got(chat.create(model=model, messages=HI, tools=[TOOL]))
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await every(chat.create(model=model, messages=HI, logprobs=True, top_logprobs=2, **options))
    assert chunks[-1].usage.completion_tokens == len(CALL) + 1
    chunks = await every(chat.create(model=model, messages=HI, tools=[TOOL], **options))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    text = await got(client.completions.create(model=model, prompt=["a", "b"], n=2, logprobs=2, echo=True))
    assert len(text.choices) == 4 and text.choices[0].logprobs.top_logprobs


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
def test_every_method_passes_the_strict_mode_and_each_field_its_type(
    world: World, key: str, kind: str, declared: bool
) -> None:
    client = client_of(world, key, kind, declared=declared)

    async def walk() -> None:
        file = await walk_files(client)
        await walk_models(client, await walk_jobs(client, world, file))
        if declared:
            await walk_what_types_lack(client, file)

    asyncio.run(walk())
    assert client.held.refused == set()
    assert set(client.held.answers) == ANSWERS
    assert client.held.unknown == OURS


FIRST = "the first token of all, which nothing predicts"
LACKING: dict[str, tuple[Callable[[Any], Any], set[tuple[str, str, str]]]] = {
    "a stream of completions": (
        lambda client: client.completions.create(model=MODEL, prompt="a", stream=True),
        {("Completion", "choices.finish_reason", "None")},
    ),
    FIRST: (
        lambda client: client.completions.create(model=MODEL, prompt=[72, 105], echo=True, logprobs=1),
        {("Completion", f"choices.logprobs.{field}", "None") for field in ("token_logprobs", "top_logprobs")},
    ),
}
"""What the strict mode refuses although the hosted API says the same, and exactly which fields."""


async def walk_what_types_lack(client: Any, file: str) -> None:
    """The methods and states of which the types lack a word, for a client that prefers declared values."""
    for ask, _ in LACKING.values():
        assert await every(ask(client))
    options: dict[str, Any] = {"stream": True, "logprobs": 1, "stream_options": {"include_usage": True}}
    whole = await got(client.completions.create(model=MODEL, prompt=["a", "b"], echo=True, logprobs=1, seed=1))
    chunks = await every(client.completions.create(model=MODEL, prompt=["a", "b"], echo=True, seed=1, **options))
    told = {chunk.choices[0].index: chunk.choices[0] for chunk in chunks if chunk.choices}
    assert len(chunks) == 3 and chunks[-1].usage == whole.usage
    assert [told[index] for index in (0, 1)] == whole.choices
    first = (await got(LACKING[FIRST][0](client))).choices[0].logprobs
    assert (first.token_logprobs[0], first.top_logprobs[0]) == (-9999.0, {})
    jobs = client.fine_tuning.jobs
    job = await got(jobs.create(model=MODEL, training_file=file))
    for answer in (await got(jobs.pause(job.id)), await got(jobs.retrieve(job.id)), (await every(jobs.list()))[0]):
        assert (answer.id, answer.status, answer.x_weft["status"]) == (job.id, "queued", "paused")
    assert "status" not in (await got(jobs.resume(job.id))).x_weft
    assert (await got(jobs.cancel(job.id))).status == "cancelled"


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("what", LACKING)
def test_the_sdks_types_cannot_say_what_completions_say(world: World, key: str, kind: str, what: str) -> None:
    ask, fields = LACKING[what]
    lenient, strict = client_of(world, key, kind, strict=False), client_of(world, key, kind)
    asyncio.run(every(ask(lenient)))
    assert lenient.held.refused == fields
    assert lenient.held.unknown == set()
    with pytest.raises(openai.APIResponseValidationError):
        asyncio.run(every(ask(strict)))


def test_the_sdks_list_of_states_lacks_paused(world: World, key: str) -> None:
    lenient, strict = (client_of(world, key, "synchronous", strict=strict) for strict in (False, True))
    file = lenient.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    job = lenient.fine_tuning.jobs.create(model=MODEL, training_file=file).id
    assert lenient.fine_tuning.jobs.pause(job).status == "paused"
    assert lenient.held.refused == {("FineTuningJob", "status", "'paused'")}
    with pytest.raises(openai.APIResponseValidationError):
        strict.fine_tuning.jobs.retrieve(job)


def test_the_hosted_apis_own_answers_break_the_same_types() -> None:
    """The shapes of its stream (openai/openai-openapi, pull request 100) and of its example of `pause`."""
    held = Held()
    piece = {"text": "This", "index": 0, "logprobs": None, "finish_reason": None}
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    held.hold(Completion, chunk | {"choices": [piece]})
    held.hold(Completion, chunk | {"choices": [piece | {"finish_reason": "stop"}]})
    job = {
        "id": "ftjob-1", "object": "fine_tuning.job", "created_at": 1, "model": "gpt-4o-mini", "status": "paused",
        "organization_id": "org-1", "training_file": "file-1", "result_files": [], "hyperparameters": {}, "seed": 1,
    }  # fmt: skip
    held.hold(FineTuningJob, job)
    held.hold(FineTuningJob, job | {"status": "running"})
    assert held.refused == {("Completion", "choices.finish_reason", "None"), ("FineTuningJob", "status", "'paused'")}


@pytest.mark.parametrize("prefer", ["declared-values", "respond-async, Declared-Values; x=1", None, "declared"])
def test_the_preference_is_found_among_others_and_said_to_be_heard(world: World, key: str, prefer: str | None) -> None:
    headers = {"authorization": f"Bearer {key}"} | ({"prefer": prefer} if prefer else {})
    heard = "declared-values" if prefer and "values" in prefer.lower() else None
    for answer in (
        world.http.get("/v1/fine_tuning/jobs", headers=headers),
        world.http.post("/v1/completions", headers=headers, json={"model": MODEL, "prompt": "a", "max_tokens": 1}),
    ):
        assert (answer.status_code, answer.headers.get("preference-applied")) == (200, heard)
