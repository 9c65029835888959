"""Log-probabilities and gradients over the forest are those of the separate, padded rows in transformers and PEFT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tests.forest.trees import for_all, forests, forms, row
from weft.forest import logprobs
from weft.forest.build import plant
from weft.forest.logprobs import learned_logprobs, token_logprobs
from weft.models import decoder, lora
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.load import load
from weft.models.lora import LoraConfig
from weft.models.nano import folder as nano
from weft.records import Tokens
from weft.testing import tiny_model

SHAPE: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
KINDS = {
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "untied": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "one layer": LlamaConfig(**SHAPE | {"num_hidden_layers": 1}),
}
TWO_LAYERS = ["tied", "untied", "qwen3"]
Q_AND_V = LoraConfig(r=3, alpha=5.0, targets=("q_proj", "v_proj"))
EVERY = LoraConfig(r=3, alpha=5.0)
LAST = LoraConfig(r=3, alpha=5.0, targets=("*.layers.1.*",))
HEAD = LoraConfig(r=3, alpha=5.0, targets=("q_proj", "lm_head"))
WITHIN = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each kind, its weights large enough to tell rows apart."""
    found = {}
    for kind, config in KINDS.items():
        model = AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.1 * noise)
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
    return found


@pytest.fixture
def every_saving_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small rows make deep forests."""
    monkeypatch.setattr(logprobs, "plant", partial(plant, min_saved=1, longest=4))
    yield


def _compact(folder: Path) -> Decoder:
    config = DecoderConfig.read(folder)
    assert config is not None
    return decoder.load(folder, config, [folder / "model.safetensors"], torch.float32).eval()


def _adapted(model: nn.Module, config: LoraConfig) -> list[nn.Parameter]:
    trained = lora.wrap(model, config, seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in trained:
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return trained


def _with_peft(reference: nn.Module, ours: nn.Module, config: LoraConfig, folder: Path) -> dict[str, nn.Parameter]:
    """Put our adapter on the reference through PEFT's own reader; returns its parameters under our names."""
    from peft import PeftModel

    lora.save_adapter(ours, folder, base_name="base", config=config)
    theirs = PeftModel.from_pretrained(reference, str(folder), is_trainable=True).double()
    named = {name.removeprefix("base_model.model."): parameter for name, parameter in theirs.named_parameters()}
    return {name.replace(".default.weight", ""): p for name, p in named.items() if ".lora_" in name}


def _padded(model: Any, rows: Sequence[Tokens]) -> Tensor:
    """The definition: each row by itself in its line, padded on the right, softmax over the vocabulary."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    chances = model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)
    picked = [(n, at) for n, row in enumerate(rows) for at, learned in enumerate(row.learn) if learned]
    return torch.stack([chances[n, at - 1, ids[n, at]] for n, at in picked])


def _compare(
    ours: Tensor, mine: Sequence[nn.Parameter], truth: Tensor, theirs: Sequence[nn.Parameter], within: float = WITHIN
) -> None:
    """Log-probabilities, and the gradients of a weighted sum of them."""
    assert ours.dtype == torch.float32 and ours.shape == truth.shape
    assert (ours - truth).abs().max() <= within * max(1.0, float(truth.detach().abs().max()))
    weights = torch.cos(torch.arange(len(ours), dtype=torch.float64)) + 0.5  # of both signs, as DPO has them
    found = torch.autograd.grad((ours * weights.float()).sum(), mine)
    expected = torch.autograd.grad((truth * weights).sum(), theirs)
    size = torch.cat([g.flatten() for g in expected]).norm()
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= within * (other.norm() + 0.1 * size)


Pair = tuple[Decoder, list[nn.Parameter], Any, list[nn.Parameter]]


@pytest.fixture(scope="module")
def pair(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Our model and its adapter, the same in transformers and PEFT as float64; made once per kind and config."""
    made: dict[tuple[str, LoraConfig | None], Pair] = {}

    def make(kind: str, config: LoraConfig | None) -> Pair:
        if (kind, config) not in made:
            ours = _compact(folders[kind])
            theirs = AutoModelForCausalLM.from_pretrained(folders[kind], dtype=torch.float64).eval()
            if config is None:
                named = dict(theirs.named_parameters())
                mine = dict(ours.named_parameters())
            else:
                _adapted(ours, config)
                named = _with_peft(theirs, ours, config, tmp_path_factory.mktemp("adapter"))
                mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
            assert mine.keys() == named.keys()
            made[kind, config] = ours, list(mine.values()), theirs, [named[name] for name in mine]
        return made[kind, config]

    return make


def _check(pair: Pair, rows: Sequence[Tokens]) -> None:
    ours, mine, theirs, named = pair
    _compare(learned_logprobs(ours, rows), mine, _padded(theirs, rows), named)


@forms(short=15, long=300)
@pytest.mark.usefixtures("every_saving_counts")
def test_an_adapter_learns_exactly_what_separate_rows_teach(examples: int, pair: Callable[..., Pair]) -> None:
    @for_all(examples, rows=forests(learning=True), kind=st.sampled_from(TWO_LAYERS),
             config=st.sampled_from([Q_AND_V, EVERY, LAST]))  # fmt: skip
    def holds(rows: list[Tokens], kind: str, config: LoraConfig) -> None:
        _check(pair(kind, config), rows)


@forms(short=10, long=200)
@pytest.mark.usefixtures("every_saving_counts")
def test_every_parameter_learns_exactly_what_separate_rows_teach(examples: int, pair: Callable[..., Pair]) -> None:
    @for_all(examples, rows=forests(learning=True), kind=st.sampled_from(list(KINDS)))
    def holds(rows: list[Tokens], kind: str) -> None:
        _check(pair(kind, None), rows)


def _batch(prefixes: int = 2, length: int = 40) -> list[Tokens]:
    """Rows as batches have them: long system prompts, several short turns, the first prompt alone too."""
    starts = [[(7 * n + 3 * place) % 11 for place in range(length)] for n in range(prefixes)]
    rows = []
    for n in range(8):
        ids = [*starts[n % prefixes], *[(n + place * place) % 11 for place in range(1 + 3 * n)]]
        rows.append(Tokens(tuple(ids), tuple(place >= length and place % 4 != 1 for place in range(len(ids)))))
    return rows


@pytest.mark.parametrize("config", [Q_AND_V, EVERY, None])
def test_a_batch_with_two_system_prompts_is_exact_at_the_default_settings(
    pair: Callable[..., Pair], config: LoraConfig | None
) -> None:
    assert len(plant(_batch()).ids) < 0.6 * sum(len(row.ids) for row in _batch())
    _check(pair("untied", config), _batch())


@pytest.mark.usefixtures("every_saving_counts")
def test_several_turns_of_one_conversation_are_learned_together(pair: Callable[..., Pair]) -> None:
    turns = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    every = Tokens(tuple(turns), (False, False, True, True, False, False, True, True, False, True))
    _check(pair("tied", EVERY), [every, row(1, 2, 3, 4, 5, 6, 9, 9, learn=2), row(1, 2, 3, 4, learn=3)])


@pytest.mark.parametrize("config", [EVERY, None])
def test_a_model_of_one_layer_is_exact(pair: Callable[..., Pair], config: LoraConfig | None) -> None:
    _check(pair("one layer", config), _batch())


def test_an_adapted_head_that_is_not_tied_is_exact_too(pair: Callable[..., Pair]) -> None:
    _check(pair("untied", HEAD), _batch())


@pytest.mark.parametrize("held", [1, 12, 30, 100])
@pytest.mark.parametrize("config", [EVERY, None])
def test_a_head_in_chunks_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, pair: Callable[..., Pair], held: int, config: LoraConfig | None
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS", held)
    _check(pair("tied", config), _batch())


def test_states_that_predict_several_tokens_or_in_any_order_count_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (4, 9))
    states, targets = torch.tensor([3, 0, 3, 2, 3]), torch.tensor([1, 8, 1, 0, 5])  # state 1 predicts nothing
    grads = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    for ours, theirs in zip(
        _from_states(lambda *given: token_logprobs(*given)[0], hidden.float(), weight.float(), states, targets, grads),
        _from_states(lambda h, w, s, t: (h @ w.T).log_softmax(-1)[s, t], hidden, weight, states, targets, grads),
        strict=True,
    ):
        assert torch.allclose(ours.double(), theirs.double(), atol=1e-5)


def _from_states(function: Any, hidden: Tensor, weight: Tensor, states: Tensor, targets: Tensor, grads: Tensor) -> list:
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    found = function(*leaves, states, targets)
    return [found.detach(), *torch.autograd.grad(found, leaves, grads.to(found.dtype))]


def test_logits_beyond_float32s_exponent_stay_finite() -> None:
    hidden = torch.tensor([[300.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    found, _, _ = token_logprobs(hidden, weight, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert found.tolist() == [0.0, -600.0]
    found.sum().backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def _traced(model: Decoder) -> list[bool]:
    """Whether the states behind each layer take part in the backward pass."""
    tracked: list[bool] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _given, out: tracked.append(out.requires_grad))
        for layer in model.model.layers
    ]
    learned_logprobs(model, _batch())
    for hook in hooks:
        hook.remove()
    return tracked


def test_nothing_is_kept_for_layers_below_the_lowest_adapter(pair: Callable[..., Pair]) -> None:
    assert _traced(pair("tied", LAST)[0]) == [False, True]
    assert _traced(pair("tied", EVERY)[0]) == [True, True]


def test_frozen_weights_get_no_gradient(pair: Callable[..., Pair]) -> None:
    model, mine, _, _ = pair("qwen3", EVERY)
    learned_logprobs(model, _batch()).sum().backward()
    trained = {id(parameter) for parameter in mine}
    assert all((parameter.grad is not None) == (id(parameter) in trained) for parameter in model.parameters())
    model.zero_grad()


def test_without_gradients_the_same_numbers_come(pair: Callable[..., Pair]) -> None:
    model = pair("tied", EVERY)[0]
    with torch.no_grad():
        quiet = learned_logprobs(model, _batch())
    assert torch.equal(quiet, learned_logprobs(model, _batch()).detach())


def test_the_same_rows_give_the_same_bytes_and_another_order_the_same_numbers(pair: Callable[..., Pair]) -> None:
    model, mine, _, _ = pair("tied", EVERY)
    first, again = (learned_logprobs(model, _batch()) for _ in range(2))
    assert torch.equal(first, again)
    assert all(
        torch.equal(*both) for both in zip(*(torch.autograd.grad(x.sum(), mine) for x in (first, again)), strict=True)
    )
    counts = [sum(row.learn) for row in _batch()]
    backwards = learned_logprobs(model, _batch()[::-1]).split(counts[::-1])
    assert torch.allclose(torch.cat(backwards[::-1]), first, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "gemma"])
def test_other_models_learn_the_same_over_padded_rows(tmp_path: Path, kind: Any) -> None:
    ours, reference = tiny_model(kind, vocabulary=11), tiny_model(kind, vocabulary=11).double()
    _adapted(ours, EVERY)
    named = _with_peft(reference, ours, EVERY, tmp_path)
    mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    rows = _batch()
    found = learned_logprobs(ours, rows), list(mine.values())
    # The arithmetic is transformers' own, and Gemma's random logits are large.
    _compare(*found, _padded(reference, rows), [named[name] for name in mine], within=5e-5)


@pytest.mark.parametrize("compact", [True, False])
def test_dropout_is_drawn_in_training_alone_and_the_same_from_one_seed(folders: dict[str, Path], compact: bool) -> None:
    folder = folders["tied"]
    model = _compact(folder) if compact else AutoModelForCausalLM.from_pretrained(folder).eval()
    _adapted(model, LoraConfig(r=3, dropout=0.5))

    def found(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return learned_logprobs(model, _batch())

    plain = found(0)
    assert torch.equal(plain, found(1))
    model.train()
    assert torch.equal(found(0), found(0))
    assert not torch.allclose(found(0), found(1)) and not torch.allclose(found(0), plain)
    found(0).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval()
    assert torch.equal(plain, found(0))


def _perplexity(chances: Tensor) -> float:
    return math.exp(-float(chances.double().mean()))


@pytest.mark.parametrize("name", ["nano", "tinystories-260k"])
@torch.no_grad()
def test_perplexity_is_that_of_transformers(request: pytest.FixtureRequest, root: Path, name: str) -> None:
    folder = nano() if name == "nano" else request.getfixturevalue("shared") / "data/models/tinystories-260k/hf"
    base = load(str(folder))
    assert isinstance(base.model, Decoder)
    text = (root / "README.md").read_text(encoding="utf-8")
    start = base.chat.tokenizer(text[:300]).input_ids
    bodies = [base.chat.tokenizer(text[n : n + 300]).input_ids for n in (300, 900)]
    rows = [Tokens((*start, *body), (False, *[True] * (len(start) + len(body) - 1))) for body in bodies]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert _perplexity(learned_logprobs(base.model, rows)) == pytest.approx(
        _perplexity(_padded(theirs, rows)), rel=1e-6
    )
