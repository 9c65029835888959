"""Answers while they come: whole characters, exact bytes of tokens, answers that end for everybody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from transformers import PreTrainedTokenizerFast

from tests.serve.speaking import BASE
from weft.errors import RunError
from weft.generate.requests import Draw, Full, Generation, Step
from weft.models.chat import Chat
from weft.serve.errors import ApiError
from weft.serve.replies import EngineFailed, Gone, Replies, Speech, while_there
from weft.serve.token_text import LOWEST, TokenText
from weft.testing import EchoEngine

TOKENS = TokenText(BASE.chat)


def steps(text: str, **last: Any) -> list[Step]:
    ids = BASE.chat.tokenizer(text, add_special_tokens=False).input_ids
    return [*(Step((id_,), (-0.5,), ((),)) for id_ in ids), Step(**{"finish": "stop"} | last)]


def spoken(text: str, stops: tuple[str, ...] = (), **last: Any) -> tuple[str, str | None, int, list[int]]:
    speech = Speech(BASE.chat.decode, stops, TOKENS)
    said, told, finish = "", [], None
    for step in steps(text, **last):
        piece = speech.hear(step)
        assert "\ufffd" not in piece.text or piece.finish
        said, finish = said + piece.text, piece.finish
        told += [token.id for token in piece.tokens]
        if finish:
            break
    return said, finish, speech.generated, told


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_an_answer_is_told_in_whole_characters(text: str) -> None:
    said, finish, generated, told = spoken(text)
    assert (said, finish) == (text, "stop")
    assert generated == len(text.encode()) + 1
    assert b"".join(TOKENS.bytes(id_) for id_ in told) == text.encode()


@given(st.text(alphabet="abé", max_size=30), st.text(alphabet="abé", min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_an_answer_ends_before_the_first_stop_text(text: str, stop: str) -> None:
    said, finish, _, told = spoken(text, (stop,))
    assert said == text.split(stop)[0]
    assert finish == "stop"
    assert b"".join(TOKENS.bytes(id_) for id_ in told) == said.encode()


def test_an_answer_that_a_stopping_server_cuts_is_one_that_is_too_short() -> None:
    assert spoken("ab", finish="cancelled")[:2] == ("ab", "length")
    assert spoken("ab", finish="length")[:3] == ("ab", "length", 2)


def test_a_broken_answer_is_an_error() -> None:
    with pytest.raises(EngineFailed, match="out of numbers"):
        spoken("ab", finish="error", error="out of numbers")
    with pytest.raises(EngineFailed, match="gave no reason"):
        spoken("ab", finish="error")


@pytest.mark.parametrize("name", ["qwen2.5", "phi-3-mini"])
def test_tokens_have_their_exact_bytes(shared: Path, name: str) -> None:
    folder = shared / "data/tokenizers" / name
    if not (folder / "tokenizer.json").exists():
        pytest.skip("this tokenizer has no tokenizer.json here")
    tokens = TokenText(Chat(PreTrainedTokenizerFast.from_pretrained(folder)))
    text = "naïve ☃ 🦊 x = 1\n\tif y:  <b>"
    chat = tokens._chat
    ids = chat._encoder.text(text, continued=True)
    assert b"".join(tokens.bytes(id_) for id_ in ids) == text.encode()
    assert tokens.bytes(10**8) == b""


def test_an_impossible_token_has_a_number_that_json_knows() -> None:
    assert TOKENS.entry(65, float("-inf"))["logprob"] == LOWEST
    assert TOKENS.entry(258, -1.0)["token"] == "<|im_end|>"


class Refusing:
    """Takes two requests, then raises."""

    def __init__(self, error: Exception) -> None:
        self.error, self.taken, self.cancelled = error, 0, 0

    def submit(self, generation: Generation, on_step: Any) -> Any:
        if self.taken == 2:
            raise self.error
        self.taken += 1
        return self

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize(("error", "status"), [(Full("full", 2.5), 429), (RunError("dead"), 503)])
def test_a_request_is_taken_whole_or_not_at_all(error: Exception, status: int) -> None:
    engine: Any = Refusing(error)

    async def work() -> None:
        with pytest.raises(ApiError) as refused:
            Replies(engine, [Generation((1,), Draw(1))] * 4)
        assert refused.value.status_code == status
        assert refused.value.headers

    asyncio.run(work())
    assert engine.cancelled == 2


def test_steps_come_from_all_answers_until_each_has_ended() -> None:
    async def work() -> tuple[list[int], list[int]]:
        engine: Any = EchoEngine(BASE, "ab")
        replies = Replies(engine, [Generation((1,), Draw(9))] * 3)
        heard, ended = [], []
        async for number, step in replies.steps():
            heard.append(number)
            if step.finish:
                ended.append(number)
            if number == 1:
                replies.end(1)
        engine.close()
        return heard, ended

    heard, ended = asyncio.run(work())
    assert heard.count(1) == 1  # its further steps are not told
    assert heard.count(0) == heard.count(2) == 3
    assert sorted(ended) == [0, 2]


def test_work_ends_with_its_client() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def there() -> Any:
        await asyncio.sleep(60)

    async def quick() -> int:
        return 7

    async def work() -> None:
        with pytest.raises(Gone):
            await while_there(Request({"type": "http"}, gone), endless())
        assert await while_there(Request({"type": "http"}, there), quick()) == 7

    asyncio.run(asyncio.wait_for(work(), 5))
    assert ended == [True]
