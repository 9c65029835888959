"""The batched engine against transformers, one row at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from weft.errors import UsageError
from weft.generate import engine
from weft.generate.engine import Request, answer, stream
from weft.generate.sampling_config import Sampling
from weft.models.load import Base

END = 3
SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def base_of(model: Any) -> Base:
    chat: Any = SimpleNamespace(end_ids=frozenset({END}))
    return Base("tiny", Path("."), model.eval(), chat, 128, 0, "", torch.device("cpu"))


def qwen() -> Base:
    torch.manual_seed(0)
    return base_of(Qwen3ForCausalLM(Qwen3Config(**SMALL, initializer_range=0.3)))


def gpt2() -> Base:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return base_of(GPT2LMHeadModel(config))


def gemma() -> Base:
    torch.manual_seed(0)
    return base_of(Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=12, initializer_range=0.3)))


def prompts(count: int, shared: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    start = tuple(torch.randint(4, 61, (shared,), generator=generator).tolist())
    lengths = torch.randint(3, 20, (count,), generator=generator).tolist()
    return [start + tuple(torch.randint(4, 61, (length,), generator=generator).tolist()) for length in lengths]


def alone(base: Base, prompt: tuple[int, ...], most: int) -> list[int]:
    """transformers' own greedy generation of one row."""
    ids = torch.tensor([prompt])
    out = base.model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, eos_token_id=END, pad_token_id=0
    )
    new = out[0, len(prompt) :].tolist()
    return new[: new.index(END)] if END in new else new


@pytest.mark.parametrize("make", [qwen, gpt2])
@pytest.mark.parametrize("shared", [0, 24])
def test_a_batch_gives_every_row_what_transformers_gives_it_alone(make: Any, shared: int) -> None:
    base, asked = make(), prompts(9, shared)
    got = answer(base, [Request(prompt) for prompt in asked], Sampling(max_tokens=12))
    assert [list(result.ids) for result in got] == [alone(base, prompt, 12) for prompt in asked]


def test_a_sliding_window_is_not_shifted_by_padding() -> None:
    base, asked = gemma(), prompts(5, 20)
    got = answer(base, [Request(prompt, (5, 6, 7)) for prompt in asked], Sampling(max_tokens=10))
    assert [list(result.ids) for result in got] == [alone(base, prompt, 10) for prompt in asked]


@pytest.mark.parametrize("make", [qwen, gemma])
@pytest.mark.parametrize("shared", [0, 24])
def test_the_log_loss_of_an_answer_is_that_of_transformers(make: Any, shared: int) -> None:
    base, asked = make(), prompts(6, shared)
    answers = [tuple(range(5, 5 + length)) for length in (1, 7, 3, 2, 9, 4)]
    got = answer(base, [Request(p, a) for p, a in zip(asked, answers, strict=True)], Sampling(max_tokens=2))
    for result, prompt, expected in zip(got, asked, answers, strict=True):
        ids = torch.tensor([prompt + expected])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            loss = base.model(input_ids=ids, labels=labels).loss
        assert result.log_loss == pytest.approx(float(loss), rel=1e-4)


def test_scoring_an_answer_does_not_change_the_reply() -> None:
    base, asked = qwen(), prompts(6, 24)
    plain = answer(base, [Request(prompt) for prompt in asked], Sampling(max_tokens=8))
    scored = answer(base, [Request(prompt, (9, 10, 11)) for prompt in asked], Sampling(max_tokens=8))
    assert [result.ids for result in plain] == [result.ids for result in scored]


def test_small_batches_and_large_ones_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    base, requests = qwen(), [Request(prompt, (8, 9)) for prompt in prompts(11, 24)]
    heard: list[int] = []
    together = answer(base, requests, Sampling(max_tokens=8))
    monkeypatch.setattr(engine, "ROWS", 3)
    apart = answer(base, requests, Sampling(max_tokens=8), heard.append)
    assert [result.ids for result in together] == [result.ids for result in apart]
    assert sum(heard) == len(requests) and len(heard) == 4


def test_a_stream_gives_the_same_tokens_one_by_one() -> None:
    base = qwen()
    for prompt in prompts(3):
        assert list(stream(base, prompt, Sampling(max_tokens=10))) == alone(base, prompt, 10)


def test_an_end_token_stops_a_row_and_the_limit_says_length() -> None:
    base, asked = qwen(), prompts(12)
    for result in answer(base, [Request(prompt) for prompt in asked], Sampling(max_tokens=6)):
        assert END not in result.ids
        assert result.finish_reason == ("stop" if len(result.ids) < 6 else "length")


def test_the_same_seed_draws_the_same_reply_and_another_seed_another() -> None:
    base, requests = qwen(), [Request(prompt) for prompt in prompts(4)]

    def drawn(seed: int, top_p: float = 1.0) -> list[tuple[int, ...]]:
        sampling = Sampling(max_tokens=12, temperature=1.5, top_p=top_p, seed=seed)
        return [result.ids for result in answer(base, requests, sampling)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, top_p=1e-6) == [tuple(alone(base, request.prompt, 12)) for request in requests]


def test_a_prompt_that_leaves_no_room_is_refused_by_number() -> None:
    with pytest.raises(
        UsageError, match=r"request 2: 120 prompt tokens and up to 10 .* exceed the context of tiny \(128\)"
    ):
        answer(qwen(), [Request((5,) * 20), Request((5,) * 120)], Sampling(max_tokens=10))
