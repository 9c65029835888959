"""Many prompts at once against transformers, one row at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.generate.conftest import KINDS, save_random_adapter
from tests.generate.conftest import alone as by_plain_passes
from weft.errors import RunError, UsageError
from weft.generate import engine
from weft.generate.beside import go_beside
from weft.generate.constrain import Grammars
from weft.generate.engine import Request, Result, answer, stream
from weft.generate.sampling_config import Sampling
from weft.models import decoder, lora
from weft.models.decoder_config import DecoderConfig
from weft.models.load import Base, load
from weft.testing import save_base

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Base, Any]]:
    """A base by its kind, and the model of transformers with the same weights."""
    known: dict[str, tuple[Base, Any]] = {}
    gpt2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}

    def make(kind: str) -> tuple[Base, Any]:
        torch.manual_seed(0)
        if kind == "gpt2":
            truth: Any = GPT2LMHeadModel(GPT2Config(vocab_size=61, **gpt2, initializer_range=0.3))
        elif kind == "alibi":
            shape: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4}
            truth = BloomForCausalLM(BloomConfig(**shape, initializer_range=0.3))
        elif kind == "window":
            truth = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=12, initializer_range=0.3))
        else:
            truth = Qwen3ForCausalLM(Qwen3Config(**SMALL, initializer_range=0.3, bos_token_id=None, eos_token_id=END))
        truth.eval()
        if kind != "decoder":
            return base_of(truth), truth
        folder = tmp_path_factory.mktemp("decoder")
        truth.save_pretrained(folder)
        config = DecoderConfig.read(folder)
        assert config is not None
        return base_of(decoder.load(folder, config, [folder / "model.safetensors"], torch.float32)), truth

    return lambda kind: known.setdefault(kind, known.get(kind) or make(kind))


ALL = ["decoder", "general", "gpt2", "window", "alibi"]


def prompts(count: int, shared: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    start = tuple(torch.randint(4, 61, (shared,), generator=generator).tolist())
    lengths = torch.randint(3, 20, (count,), generator=generator).tolist()
    return [start + tuple(torch.randint(4, 61, (length,), generator=generator).tolist()) for length in lengths]


def alone(truth: Any, prompt: tuple[int, ...], most: int) -> list[int]:
    """transformers' own greedy generation of one row."""
    ids = torch.tensor([prompt])
    out = truth.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, eos_token_id=END, pad_token_id=0
    )
    new = out[0, len(prompt) :].tolist()
    return new[: new.index(END)] if END in new else new


def losses(truth: Any, asked: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]]) -> list[float]:
    """Mean nats per token of the answers by one padded forward pass of transformers."""
    rows = [torch.tensor(prompt + expected) for prompt, expected in zip(asked, answers, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        chances = truth(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    found = []
    for row, prompt, expected in zip(chances, asked, answers, strict=True):
        places = torch.arange(len(prompt) - 1, len(prompt) + len(expected) - 1)
        found.append(-float(row[places, torch.tensor(expected)].mean()))
    return found


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shared", [0, 40])
def test_a_batch_gives_every_row_what_transformers_gives_it_alone(made: Any, kind: str, shared: int) -> None:
    (base, truth), asked = made(kind), prompts(9, shared)
    got = answer(base, [Request(prompt) for prompt in asked], Sampling(max_tokens=12))
    assert [list(result.ids) for result in got] == [alone(truth, prompt, 12) for prompt in asked]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shared", [0, 40])
def test_the_log_loss_of_an_answer_is_that_of_transformers(
    made: Any, kind: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.generate.general.LOGITS", 4 * 61)
    (base, truth), asked = made(kind), prompts(6, shared)
    answers = [tuple(range(5, 5 + length)) for length in (1, 7, 3, 2, 9, 4)]
    got = answer(base, [Request(p, a) for p, a in zip(asked, answers, strict=True)], Sampling(max_tokens=2))
    assert [result.log_loss for result in got] == pytest.approx(losses(truth, asked, answers), rel=1e-5)
    assert [list(result.ids) for result in got] == [alone(truth, prompt, 2) for prompt in asked]


@pytest.mark.parametrize("kind", ["decoder", "general"])
def test_small_groups_and_large_ones_agree(made: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (base, _), asked = made(kind), prompts(11, 40)
    requests = [Request(prompt, (8, 9)) for prompt in [*asked, asked[3], asked[3] + (7, 7)]]
    heard: list[int] = []
    together = answer(base, requests, Sampling(max_tokens=8), heard.append)
    assert sum(heard) == len(requests)
    for name, value in {"ROWS": 3, "READ": 30, "HELD": 60 * 128}.items():
        with monkeypatch.context() as patch:
            patch.setattr(engine, name, value)
            _alike(answer(base, requests, Sampling(max_tokens=8)), together)


def _alike(found: Sequence[Result], expected: Sequence[Result]) -> None:
    assert [replace(one, log_loss=0.0) for one in found] == [replace(one, log_loss=0.0) for one in expected]
    assert [one.log_loss for one in found] == pytest.approx([one.log_loss for one in expected], rel=1e-5)


@pytest.mark.parametrize(("kind", "reach", "obeys"), [
    ("general", 128, True), ("gpt2", 128, True), ("window", 12, True), ("window", 13, False), ("alibi", 128, False),
])  # fmt: skip
def test_models_that_obey_positions_and_masks_go_side_by_side(made: Any, kind: str, reach: int, obeys: bool) -> None:
    assert go_beside(made(kind)[0].model, reach) is obeys


def test_what_all_prompts_begin_with_is_read_once(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (base, _), asked = made("decoder"), prompts(8, 40)
    read: list[int] = []
    states = base.model.states

    def counted(ids: Any, *rest: Any) -> Any:
        read.append(len(ids))
        return states(ids, *rest)

    monkeypatch.setattr(base.model, "states", counted)
    monkeypatch.setattr(engine, "ROWS", 2)
    answer(base, [Request(prompt) for prompt in asked], Sampling(max_tokens=1))
    assert len(read) == 4 and sum(read) == 40 + sum(len(prompt) - 40 for prompt in asked)


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_beside_the_layers_answers_and_scores_as_fused(base: Base, adapters: Path, name: str) -> None:
    asked = [tuple(range(n, n + 9)) for n in range(5)]
    requests = [Request(prompt, (5, 258, 7)) for prompt in asked]
    expected = [by_plain_passes(base, prompt, 6, adapters / name)[0] for prompt in asked]
    lora.load_adapter(base.model, adapters / name)
    try:
        beside = answer(base, requests, Sampling(max_tokens=6))
    finally:
        lora.unwrap(base.model)
    own = load(str(base.folder))
    lora.load_adapter(own.model, adapters / name)
    lora.fuse(own.model)
    _alike(answer(own, requests, Sampling(max_tokens=6)), beside)
    ends = base.chat.end_ids
    cut = [ids[: next((i for i, token in enumerate(ids) if token in ends), 6)] for ids in expected]
    assert [list(result.ids) for result in beside] == cut


def test_an_adapter_beside_a_model_of_transformers_is_applied(tmp_path: Path) -> None:
    base = load(str(save_base(tmp_path / "base", "gpt2")))
    save_random_adapter(base.model, tmp_path / "a", KINDS["plain"][0], (), 1)
    expected = by_plain_passes(base, [9, 8, 7], 5, tmp_path / "a")[0]
    lora.load_adapter(base.model, tmp_path / "a")
    assert list(answer(base, [Request((9, 8, 7))], Sampling(max_tokens=5))[0].ids) == expected


def test_answering_leaves_the_model_as_it_was(made: Any) -> None:
    base, _ = made("decoder")
    before = {name: (part.data_ptr(), part.stride(), part.clone()) for name, part in base.model.named_parameters()}
    answer(base, [Request(prompt, (5,)) for prompt in prompts(3)], Sampling(max_tokens=3))
    for name, part in base.model.named_parameters():
        assert (part.data_ptr(), part.stride()) == before[name][:2] and torch.equal(part, before[name][2])


@pytest.mark.parametrize("kind", ["decoder", "general"])
def test_a_stream_gives_the_same_tokens_one_by_one(made: Any, kind: str) -> None:
    base, truth = made(kind)
    for prompt in prompts(3):
        assert list(stream(base, prompt, Sampling(max_tokens=10))) == alone(truth, prompt, 10)


def test_a_step_of_rows_side_by_side_is_one_pass_per_arena(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (base, _), asked = made("gpt2"), prompts(5)
    assert go_beside(base.model, 128)
    rows: list[int] = []
    forward = base.model.forward

    def counted(*given: Any, **named: Any) -> Any:
        rows.append(len(named["input_ids"]))
        return forward(*given, **named)

    monkeypatch.setattr(base.model, "forward", counted)
    ending = replace(base, chat=SimpleNamespace(end_ids=frozenset()))  # type: ignore[arg-type]
    answer(ending, [Request(prompt) for prompt in asked], Sampling(max_tokens=4))
    assert rows == [1] * 5 + [5] * 3


def test_an_end_token_stops_a_row_and_the_limit_says_length(made: Any) -> None:
    (base, _), requests = made("decoder"), [Request(prompt) for prompt in prompts(12)]
    whole = answer(base, requests, Sampling(max_tokens=6))
    end = next(token for token in whole[0].ids[2:] if token not in whole[0].ids[:2])
    ending = replace(base, chat=SimpleNamespace(end_ids=frozenset({end})))  # type: ignore[arg-type]
    got = answer(ending, requests, Sampling(max_tokens=6))
    for one, result in zip(whole, got, strict=True):
        stops = end in one.ids
        assert result.ids == (one.ids[: one.ids.index(end)] if stops else one.ids)
        assert result.finish_reason == ("stop" if stops else "length")
    assert {result.finish_reason for result in got} == {"stop", "length"}


def test_the_same_seed_draws_the_same_reply_in_any_company_and_another_seed_another(made: Any) -> None:
    (base, truth), asked = made("decoder"), prompts(4)

    def drawn(seed: int, top_p: float = 1.0, count: int = 4) -> list[tuple[int, ...]]:
        sampling = Sampling(max_tokens=12, temperature=1.5, top_p=top_p, seed=seed)
        return [result.ids for result in answer(base, [Request(prompt) for prompt in asked[:count]], sampling)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, count=2) == drawn(1)[:2]
    assert drawn(1, top_p=1e-6) == [tuple(alone(truth, prompt, 12)) for prompt in asked]


def test_nothing_asked_is_nothing_answered(made: Any) -> None:
    assert answer(made("decoder")[0], [], Sampling()) == []


def test_a_prompt_that_leaves_no_room_is_refused_by_number(made: Any) -> None:
    with pytest.raises(
        UsageError, match=r"request 2: 120 prompt tokens and up to 10 .* exceed the context of tiny \(128\)"
    ):
        answer(made("decoder")[0], [Request((5,) * 20), Request((5,) * 120)], Sampling(max_tokens=10))


def test_numbers_that_are_not_finite_end_the_work_in_words(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = made("decoder")
    monkeypatch.setattr(base.model.lm_head, "forward", lambda x: x.new_full((len(x), 61), float("nan")))
    with pytest.raises(RunError, match="the model gave no finite number for the next token"):
        answer(base, [Request((5, 6))], Sampling(max_tokens=8))


FORM = "[!-N]{0,6}"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, list[Request], list[Request]]:
    """A base that knows nothing and ends often, prompts to it, and the same held to a form that it sometimes keeps."""
    base = load(str(save_base(tmp_path_factory.mktemp("held") / "base", seed=3)))
    generator = torch.Generator().manual_seed(5)
    free = [Request(tuple(torch.randint(0, 256, (9,), generator=generator).tolist())) for _ in range(40)]
    with closing(Grammars(base.chat.tokenizer, base.vocabulary, base.chat.end_ids, seconds=30)) as grammars:
        form = grammars.regex(FORM)
    base.chat.end_ids = frozenset(range(94, 264))  # ids below are the printable characters
    return base, free, [replace(request, constraint=form) for request in free]


def test_replies_are_of_their_form_and_the_unaided_ones_are_what_the_model_says_freely(held: Any) -> None:
    base, free, bound = held
    wanted = answer(base, free, Sampling(max_tokens=7))
    got = answer(base, bound, Sampling(max_tokens=7))
    assert all(re.fullmatch(FORM, base.chat.decode(result.ids)) for result in got)
    assert {result.finish_reason for result in got} == {"stop"}
    assert all(result.unaided for result in wanted)
    same = [one.ids == other.ids and other.finish_reason == "stop" for one, other in zip(got, wanted, strict=True)]
    assert [result.unaided for result in got] == same
    assert 0 < sum(same) < len(same)


def test_held_and_free_rows_of_one_batch_do_not_disturb_each_other(held: Any) -> None:
    base, free, bound = held
    mixed = [pair[number % 2] for number, pair in enumerate(zip(free, bound, strict=True))]
    expected = [answer(base, side, Sampling(max_tokens=7)) for side in (free, bound)]
    assert answer(base, mixed, Sampling(max_tokens=7)) == [expected[n % 2][n] for n in range(len(mixed))]


def test_drawn_replies_are_of_their_form_too(held: Any) -> None:
    base, _, bound = held
    for result in answer(base, bound, Sampling(max_tokens=7, temperature=1.5, seed=4)):
        assert re.fullmatch(FORM, base.chat.decode(result.ids)) and not result.unaided
    ids = stream(base, bound[0].prompt, Sampling(max_tokens=7, temperature=1.5), bound[0].constraint)
    assert re.fullmatch(FORM, base.chat.decode(list(ids)))
