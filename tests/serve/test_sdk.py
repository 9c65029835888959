"""The SDK's classes of errors, over the same server. What its types say of each answer: test_sdk_types.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.serve.conftest import World, chat_rows


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
