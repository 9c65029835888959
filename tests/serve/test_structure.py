"""A body costs the event loop little, whatever it is made of; what is made of too much is refused while it arrives."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.serve.conftest import World
from weft.serve.errors import ApiError
from weft.serve.structure import MOST_NESTED, MOST_VALUES, Structure
from weft.serve.wire.chat import ChatRequest
from weft.serve.wire.completions import CompletionRequest
from weft.serve.wire.jobs import JobRequest

MB = 1 << 20
MOST_SECONDS = 0.2
"""Of the processor, for a body that is let in: so long may it keep `/health` waiting."""
SAID = '{"model":"m","messages":[{"role":"user","content":'
ASKED = '{"model":"m","messages":[{"role":"user","content":""}],'
PIECE = 1 << 16


def full(head: str, one: str, tail: str, count: int = MOST_VALUES) -> str:
    """As many of `one` as are let in, up to `count`."""
    each = one.count("{") + one.count("[") + one.count(":")
    room = MOST_NESTED - sum((head + tail).count(mark) for mark in "{[:")
    return head + ",".join([one] * min(count - 10, room // each if each else count)) + tail


def counted(body: bytes, piece: int = PIECE) -> tuple[int, int]:
    structure = Structure()
    for start in range(0, len(body), piece):
        structure.take(body[start : start + piece])
    return structure._nested, structure._values


def plainly(value: Any) -> tuple[int, int]:
    """The same numbers from the value itself: (objects, lists and keys; commas)."""
    if not isinstance(value, dict | list):
        return 0, 0
    members = list(value.values()) if isinstance(value, dict) else value
    inner = [plainly(member) for member in members]
    keys = len(value) if isinstance(value, dict) else 0
    return 1 + keys + sum(n for n, _ in inner), max(0, len(members) - 1) + sum(v for _, v in inner)


texts = st.text(alphabet=st.sampled_from('"\\{}[],:a\u00e9\n'), max_size=12)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@given(values, st.integers(1, 9), st.booleans())
def test_what_is_counted_is_what_stands_outside_strings(value: Any, piece: int, ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii).encode()
    assert counted(body, piece) == plainly(value)


COSTLY: dict[str, tuple[type[BaseModel], str]] = {
    "one text of 16 MB": (ChatRequest, SAID + '"' + "a, {b}: [c] " * (16 * MB // 12) + '"}]}'),
    "a text of escapes": (ChatRequest, SAID + '"' + "\\u00e9" * (2 * MB) + '"}]}'),
    "parts": (ChatRequest, full(SAID + "[", '{"type":""}', "]}]}")),
    "parts without a type": (ChatRequest, full(SAID + "[", "{}", "]}]}")),
    "messages": (ChatRequest, full('{"model":"m","messages":[', "{}", "]}")),
    "lists": (ChatRequest, full(ASKED + '"x":[', "[]", "]}")),
    "keys": (ChatRequest, ASKED + ",".join(f'"{n:x}":0' for n in range(MOST_NESTED - 7)) + "}"),
    "biases": (ChatRequest, ASKED + '"logit_bias":{' + ",".join(f'"x{n}":1' for n in range(MOST_NESTED - 9)) + "}}"),
    "metadata": (ChatRequest, ASKED + '"metadata":{' + ",".join(f'"{n}":1' for n in range(MOST_NESTED - 9)) + "}}"),
    "token ids": (CompletionRequest, full('{"model":"m","prompt":[', "1", "]}")),
    "wrong token ids": (CompletionRequest, full('{"model":"m","prompt":[1,', '""', "]}")),
    "lists of token ids": (CompletionRequest, full('{"model":"m","prompt":[', "[1]", "]}")),
    "settings": (JobRequest, full('{"model":"m","training_file":"f","x_weft":{"a":[', '{"a":1}', "]}}")),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_a_body_that_is_let_in_is_read_and_judged_in_no_time(kind: str) -> None:
    shape, text = COSTLY[kind]
    body = text.encode()
    gc.disable()  # a collection looks through all that the other tests have left
    try:
        began = time.process_time()
        counted(body)
        value = json.loads(body)
        try:
            shape.model_validate(value)
        except ValidationError as error:
            error.errors()
        taken = time.process_time() - began
    finally:
        gc.enable()
    assert taken < MOST_SECONDS


TOO_MUCH = {
    "objects": (SAID + "[" + '{"type":""},' * MOST_NESTED, "50,000 objects, lists and keys"),
    "values": ('{"model":"m","messages":[' + "1," * (MOST_VALUES + 1), "1,000,000 values"),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_body_made_of_too_much_is_refused_by_its_number(world: World, kind: str) -> None:
    text, said = TOO_MUCH[kind]
    answer = world.http.post("/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and answer.headers["connection"] == "close"
    error = answer.json()["error"]
    assert error["code"] == "request_too_large"
    assert error["message"] == f"The request has more than the {said} that are taken here. Send it as several."


@pytest.mark.parametrize(
    ("inner", "said"),
    [("[" * 199 + "]" * 199, "is nested deeper than 200"), ("]" * 9, "closes what was not opened")],
)
def test_brackets_that_no_reader_could_follow_are_refused(world: World, inner: str, said: str) -> None:
    text = '{"model":"weft-nano","training_file":"file-x","x":[' + inner + "]}"
    answer = world.http.post("/v1/fine_tuning/jobs", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_json" and error["message"].endswith(f": it {said}.")


def test_what_is_nested_as_deeply_as_allowed_is_answered(world: World, training_file: str) -> None:
    inner = '{"a":' * 198 + "1" + "}" * 198
    text = f'{{"model":"weft-nano","training_file":"{training_file}","x":[{inner}]}}'
    answer = world.http.post("/v1/fine_tuning/jobs", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 200 and answer.headers["x-weft-warning"] == "ignored unknown fields: x"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_body_that_is_not_utf_8_is_refused(world: World, encoding: str) -> None:
    """What stands outside strings is known in UTF-8 alone: here a sign's half would be a quotation mark."""
    text = SAID + '"\u2222"}]}'
    answer = world.http.post(
        "/v1/chat/completions", content=text.encode(encoding), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"
    with pytest.raises(ApiError, match="not UTF-8"):
        Structure().take(text.encode(encoding))


def test_an_object_with_too_many_members_is_refused_by_their_number(world: World) -> None:
    bias = {str(number): 1 for number in range(1025)}
    body = {"model": "weft-nano", "messages": [{"role": "user", "content": "a"}], "logit_bias": bias}
    error = world.http.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "logit_bias" and "has 1,025 members, expected at most 1,024" in error["message"]


@pytest.mark.slow
def test_health_is_answered_while_large_bodies_are_sent(live: Callable[..., Any]) -> None:
    """Every costly body five times, and bodies of 16 MB made of too much, beside one client that asks for /health."""
    _, address = live()
    over, asked = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=address) as client:
            while not over.is_set():
                began = time.perf_counter()
                client.get("/health").raise_for_status()
                asked.append(time.perf_counter() - began)
                over.wait(0.005)

    asker = threading.Thread(target=ask)
    asker.start()
    paths = {ChatRequest: "chat/completions", CompletionRequest: "completions", JobRequest: "fine_tuning/jobs"}
    bodies = [(paths[shape], text) for shape, text in COSTLY.values()]
    bodies += [(paths[ChatRequest], SAID + "[" + one * (16 * MB // len(one))) for one in ("{},", '{"type":""},', "[],")]
    statuses = set()
    try:
        for path, text in bodies * 5:
            headers = {"content-type": "application/json"}
            try:
                answer = httpx.post(f"{address}/v1/{path}", content=text.encode(), headers=headers, timeout=60)
                statuses.add(answer.status_code)
            except httpx.WriteError:
                continue  # it was refused before it was all sent
    finally:
        over.set()
        asker.join()
    assert statuses <= {400, 404, 413}
    asked.sort()
    print(f"{len(asked):,} times /health: p50 {asked[len(asked) // 2]:.3f} s, longest {asked[-1]:.3f} s")
