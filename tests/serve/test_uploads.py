"""Uploads in parts, through the SDK's own helper and by hand."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.serve.conftest import World, chat_rows

CONTENT = chat_rows(3)


def announced(world: World, size: int = len(CONTENT), purpose: str = "fine-tune") -> Any:
    return world.sdk().uploads.create(
        bytes=size,
        filename="train.jsonl",
        mime_type="text/jsonl",
        purpose=purpose,  # type: ignore[arg-type]
    )


def test_the_sdk_sends_a_file_in_small_pieces(world: World) -> None:
    content = CONTENT[:60]
    done = world.sdk().uploads.upload_file_chunked(
        file=content, filename="train.jsonl", bytes=len(content), mime_type="text/jsonl", purpose="batch", part_size=4
    )
    assert (done.object, done.status, done.bytes, done.filename) == ("upload", "completed", 60, "train.jsonl")
    assert done.expires_at == done.created_at + 3600
    assert done.file is not None
    assert done.file.id.startswith("file-")
    assert world.sdk().files.content(done.file.id).read() == content


def test_the_order_of_the_ids_is_the_order_of_the_parts(kept: World) -> None:
    client, made = kept.sdk(), announced(kept)
    cut = len(CONTENT) // 2
    later = client.uploads.parts.create(made.id, data=io.BytesIO(CONTENT[cut:]))
    sooner = client.uploads.parts.create(made.id, data=io.BytesIO(CONTENT[:cut]))
    assert (sooner.object, sooner.upload_id) == ("upload.part", made.id)
    done = client.uploads.complete(made.id, part_ids=[sooner.id, later.id], md5=hashlib.md5(CONTENT).hexdigest())
    assert done.file is not None
    assert done.file.status == "processed"
    assert client.files.content(done.file.id).read() == CONTENT
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.parts.create(made.id, data=b"more")
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.BadRequestError):
        client.uploads.cancel(made.id)


@pytest.mark.parametrize(
    ("size", "md5", "said"), [(len(CONTENT) + 1, None, "bytes"), (len(CONTENT), "0" * 32, "(?i)md5")]
)
def test_what_does_not_add_up_is_refused(kept: World, size: int, md5: str | None, said: str) -> None:
    client, made = kept.sdk(), announced(kept, size)
    part = client.uploads.parts.create(made.id, data=CONTENT)
    with pytest.raises(openai.BadRequestError, match=said):
        client.uploads.complete(made.id, part_ids=[part.id], md5=md5 if md5 else openai.omit)
    assert client.uploads.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(made.id, part_ids=[part.id])


def test_unknown_uploads_and_parts_are_404s(kept: World) -> None:
    client = kept.sdk()
    for ask in (
        lambda: client.uploads.cancel("upload_unknown"),
        lambda: client.uploads.parts.create("upload_unknown", data=b"x"),
        lambda: client.uploads.complete("upload_unknown", part_ids=["part_x"]),
        lambda: client.uploads.complete(announced(kept).id, part_ids=["part_unknown"]),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "user_data"}, "purpose"),
        ({"bytes": 0}, "bytes"),
        ({"bytes": "12"}, "bytes"),
        ({"bytes": (8192 << 20) + 1}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": "a\0b"}, "filename"),
        ({"mime_type": None}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
    ],
)
def test_a_bad_field_of_an_announcement_is_named(kept: World, fields: dict[str, Any], param: str) -> None:
    body = {"bytes": 4, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", **fields}
    answer = kept.http.post("/v1/uploads", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_part_over_the_limit_is_a_413(make_world: Callable[..., World]) -> None:
    world = make_world(part_mb=1)
    made = announced(world, 2 << 20, "batch")
    part = world.sdk().uploads.parts.create(made.id, data=b"x" * (1 << 20))
    assert part.id.startswith("part_")
    with pytest.raises(openai.APIStatusError) as caught:
        world.sdk().uploads.parts.create(made.id, data=b"x" * ((1 << 20) + 1))
    assert caught.value.status_code == 413


def test_an_upload_that_is_no_training_file_says_so_and_no_job_takes_it(kept: World) -> None:
    client, made = kept.sdk(), announced(kept, 10)
    part = client.uploads.parts.create(made.id, data=b"text,label")
    done = client.uploads.complete(made.id, part_ids=[part.id])
    assert done.file is not None
    assert done.file.status == "error"
    assert "JSONL" in str(client.files.retrieve(done.file.id).status_details)
    with pytest.raises(openai.BadRequestError, match="JSONL") as caught:
        client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=done.file.id)
    assert caught.value.code == "invalid_training_file"
