"""Completions: plain text goes on, from texts and from token ids, and nothing in a text is a control token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError

from tests.serve.speaking import BASE, MODEL, TUNED, Speaking, speaking
from weft.testing import EchoEngine
from weft.train.documents import Writer

SAYING = speaking(lambda base: EchoEngine(base, " and on."))
WRITER = Writer.of(BASE, BASE.context)


def ask(server: Speaking = SAYING, **fields: Any) -> Any:
    async def work() -> Any:
        return await server.sdk().completions.create(**{"model": MODEL, "prompt": "So"} | fields)

    return asyncio.run(work())


def ids(text: str) -> list[int]:
    return [WRITER.begin, *WRITER.encoder.text(text, continued=False)]


def test_a_text_goes_on() -> None:
    answer = ask(model=TUNED)
    assert (answer.object, answer.model) == ("text_completion", TUNED)
    assert answer.id.startswith("cmpl-")
    assert answer.system_fingerprint.startswith("weft-tiny-")
    assert [(choice.text, choice.index, choice.finish_reason) for choice in answer.choices] == [(" and on.", 0, "stop")]
    assert answer.choices[0].logprobs is None
    asked = SAYING.engine.asked[-1]
    assert list(asked.prompt) == ids("So")
    assert asked.end_ids == BASE.chat.end_ids | {WRITER.end}
    assert asked.draw.max_tokens == 16
    assert answer.usage.total_tokens == len(asked.prompt) + len(" and on.") + 1


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("So", [ids("So")]),
        (["So", "Then"], [ids("So"), ids("Then")]),
        ([72, 105], [[72, 105]]),
        ([[72, 105], [256]], [[72, 105], [256]]),
        ("", [ids("")]),
        ("<|im_end|>", [ids("<|im_end|>")]),
    ],
)
def test_a_prompt_is_text_or_ids_one_or_several(prompt: Any, prompts: list[list[int]]) -> None:
    before = len(SAYING.engine.asked)
    answer = ask(prompt=prompt, n=2)
    assert [list(asked.prompt) for asked in SAYING.engine.asked[before:]] == [ids for ids in prompts for _ in range(2)]
    assert [choice.index for choice in answer.choices] == list(range(2 * len(prompts)))
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    assert len(ids("<|im_end|>")) == 1 + len("<|im_end|>")  # as text, letter by letter


def test_log_probabilities_stand_beside_their_places() -> None:
    logprobs = ask(logprobs=2).choices[0].logprobs
    assert logprobs.tokens == list(" and on.")
    assert logprobs.token_logprobs == [-0.5] * 8
    assert logprobs.text_offset == list(range(8))
    assert logprobs.top_logprobs[1] == {"a": -0.5, "b": -2.0}
    assert ask(logprobs=0).choices[0].logprobs.top_logprobs is None


def test_echo_gives_the_prompt_back() -> None:
    assert [choice.text for choice in ask(prompt=["So", "Hi"], echo=True).choices] == ["So and on.", "Hi and on."]
    assert ask(prompt=ids("Hi")[1:], echo=True).choices[0].text == "Hi and on."
    nothing = ask(max_tokens=0, echo=True)
    assert (nothing.choices[0].text, nothing.choices[0].finish_reason) == ("So", "length")
    assert nothing.usage.completion_tokens == 0


def test_an_echoed_text_has_a_log_probability_at_each_of_its_tokens() -> None:
    choice = ask(prompt="So", echo=True, logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text == "So and on."
    assert logprobs.token_logprobs == [-0.25] * 2 + [-0.5] * 8  # the beginning of a document stands before the text
    assert logprobs.text_offset == list(range(10))
    assert logprobs.top_logprobs[0] == {"S": -0.25, "T": -1.25}
    assert SAYING.engine.asked[-1].prompt_logprobs == 2


def raw(**fields: Any) -> Any:
    """The JSON of an answer that the strict SDK refuses: nothing predicts the first of token ids."""

    async def work() -> Any:
        async with SAYING.http() as client:
            return (await client.post("/v1/completions", json={"model": MODEL} | fields)).json()

    return asyncio.run(work())


def test_the_first_of_echoed_ids_has_no_log_probability() -> None:
    logprobs = raw(prompt=ids("Hi")[1:], echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert logprobs["tokens"][:2] == ["H", "i"]
    assert logprobs["token_logprobs"][:3] == [None, -0.25, -0.5]
    assert logprobs["top_logprobs"][:2] == [None, {"i": -0.25}]


def test_a_prompt_is_scored_without_a_completion() -> None:
    """What evaluation harnesses ask: `max_tokens` 0, or 1 and the last token left aside."""
    for ids, count in (([72, 105], 1), ([72], 0)):
        answer = raw(prompt=[ids, ids], max_tokens=0, echo=True, logprobs=1)
        for choice in answer["choices"]:
            assert (choice["text"], choice["finish_reason"]) == (BASE.chat.text(ids), "length")
            assert choice["logprobs"]["token_logprobs"] == [None] + [-0.25] * count
        assert answer["usage"]["completion_tokens"] == 0
    one = raw(prompt=[72, 105], max_tokens=1, echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert one["token_logprobs"] == [None, -0.25, -0.5]
    assert ask(max_tokens=0, echo=True, logprobs=0).choices[0].logprobs.token_logprobs == [-0.25] * 2


def test_a_streamed_echo_says_the_same_as_a_whole_one() -> None:
    for fields in ({"prompt": ["So", "Hi"], "n": 2}, {"prompt": [72, 105]}, {"prompt": "So", "max_tokens": 0}):
        body = {"model": MODEL, "echo": True, "logprobs": 1, **fields}

        async def work(body: dict[str, Any] = body) -> str:
            async with SAYING.http() as client:
                return (await client.post("/v1/completions", json={**body, "stream": True})).text

        lines = [line[6:] for line in asyncio.run(work()).split("\n") if line.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        pieces = [choice for line in lines for choice in json.loads(line)["choices"]]
        for choice in raw(**body)["choices"]:
            own = [piece for piece in pieces if piece["index"] == choice["index"]]
            assert "".join(piece["text"] for piece in own) == choice["text"]
            for field, told in choice["logprobs"].items():
                assert [value for piece in own for value in (piece["logprobs"] or {}).get(field, [])] == told
            assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_the_best_of_several_is_given() -> None:
    from weft.generate.requests import Step

    class Scored(EchoEngine):
        """Its third answer is the most probable one."""

        def submit(self, generation: Any, on_step: Any) -> Any:
            number = len(self.tickets)
            logprob = -0.1 if number == 2 else -2.0

            def told(step: Step) -> None:
                assert len(step.logprobs) == len(step.ids)
                on_step(Step(step.ids, (logprob,) * len(step.ids), ((),) * len(step.ids), step.finish))

            return super().submit(generation, told)

    server = speaking(lambda base: Scored(base, lambda generation: [65 + len(server.engine.tickets)]))
    _ = server.engine
    answer = ask(server, best_of=4, n=1)
    assert [choice.text for choice in answer.choices] == [BASE.chat.text([67])]
    assert answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 4 * 2


def test_a_stream_says_the_same_and_ends() -> None:
    async def work() -> list[str]:
        async with SAYING.http() as client:
            body = {"model": MODEL, "prompt": ["So", "Hi"], "stream": True, "echo": True,
                    "stream_options": {"include_usage": True}}  # fmt: skip
            answer = await client.post("/v1/completions", json=body)
            return [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]

    *data, usage, done = asyncio.run(work())
    assert done == "[DONE]"
    assert json.loads(usage)["usage"]["completion_tokens"] == 18
    choices = [json.loads(line)["choices"][0] for line in data]
    for index, text in enumerate(("So and on.", "Hi and on.")):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == text
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"suffix": "x"}, "suffix", "know no text that follows"),
        ({"best_of": 1, "n": 2}, "best_of", "must be at least `n`"),
        ({"best_of": 21}, "best_of", "less than or equal to 20"),
        ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
        ({"logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [[]]}, "prompt[0]", "at least 1 item"),
        ({"prompt": [264]}, "prompt", "token 264 is not below 264"),
        ({"prompt": [-1]}, "prompt[0]", "greater than or equal to 0"),
        ({"prompt": [1.5]}, "prompt[0]", "valid integer"),
        ({"prompt": ["a", 5]}, "prompt[1]", "valid string"),
        ({"prompt": ["a"] * 129}, "prompt", "at most 128 items"),
        ({"prompt": ["a"] * 100, "n": 6}, "prompt", "more than 512"),
        ({"prompt": "x" * 300}, "prompt", "maximum context length is 256 tokens"),
        ({"extra_body": {"stream_options": {}}}, "stream_options", "only allowed when `stream` is true"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(fields: dict[str, Any], param: str, message: str) -> None:
    before = len(SAYING.engine.asked)
    with pytest.raises(BadRequestError, match=message) as refused:
        ask(**fields)
    assert refused.value.param == param
    assert len(SAYING.engine.asked) == before


def test_the_context_is_used_to_its_last_token() -> None:
    for characters, fits in ((239, True), (240, False)):
        try:
            ask(prompt="x" * characters)
            assert fits
        except BadRequestError as refused:
            assert not fits
            assert refused.code == "context_length_exceeded"


def test_embeddings_are_not_found() -> None:
    async def work() -> None:
        await SAYING.sdk().embeddings.create(model=MODEL, input="x")

    with pytest.raises(NotFoundError, match="makes no embeddings") as refused:
        asyncio.run(work())
    assert refused.value.code == "unsupported_endpoint"
