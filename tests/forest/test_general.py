"""Models of transformers over a forest: the numbers of padded rows with fewer operations, or padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
)

from tests.forest.trees import for_all, forests, forms, row
from weft.forest import general
from weft.forest.build import plant
from weft.forest.general import over_forest, padded, predicted, takes_forests
from weft.models import attention
from weft.records import Tokens

ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPE: dict[str, Any] = ENDS | {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
OWN_SHAPE: dict[str, Any] = ENDS | {"vocab_size": 40, "n_positions": 256}
TAKES = {
    "gpt2": GPT2Config(**OWN_SHAPE, n_embd=32, n_layer=2, n_head=4),
    "gemma2": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=64),
    "phi": PhiConfig(**SHAPE),
    "phi3": Phi3Config(**SHAPE, num_key_value_heads=2),
    "opt": OPTConfig(**{**SHAPE, "hidden_size": 32}, ffn_dim=48, word_embed_proj_dim=32),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
}
REFUSES = {
    "alibi": BloomConfig(**ENDS, vocab_size=40, hidden_size=32, n_layer=2, n_head=4),
    "recurrent": MambaConfig(**ENDS, vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def _model(config: Any, implementation: str | None = None) -> nn.Module:
    """Random weights, large enough to tell rows apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: _model(config) for name, config in TAKES.items()}


def _found(model: nn.Module, part: general.Predicted) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities, and the gradients of a weighted sum of them."""
    chances = part.logits.log_softmax(-1)[part.states, part.targets]
    weights = torch.cos(torch.arange(len(chances))) + 0.5
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return chances.detach(), list(torch.autograd.grad((chances * weights).sum(), parameters))


def _check(model: nn.Module, rows: Sequence[Tokens], longest: int = 4) -> None:
    found, gradients = _found(model, over_forest(model, plant(rows, min_saved=1, longest=longest)))
    truth, expected = _found(model, padded(model, rows))
    assert (found - truth).abs().max() <= 1e-5 * max(1.0, float(truth.abs().max()))
    size = torch.cat([gradient.flatten() for gradient in expected]).norm()
    for one, other in zip(gradients, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * (other.norm() + size)


@forms(short=12, long=200)
def test_log_probabilities_and_gradients_are_those_of_padded_rows(examples: int, models: dict[str, nn.Module]) -> None:
    @for_all(examples, rows=forests(learning=True), kind=st.sampled_from(list(TAKES)))
    def holds(rows: list[Tokens], kind: str) -> None:
        _check(models[kind], rows)


def _batch(shared: int = 60, count: int = 6) -> list[Tokens]:
    start = [place * place % 37 for place in range(shared)]
    return [row(*start, *[(n * 7 + place) % 40 for place in range(3 + n)], learn=2 + n) for n in range(count)]


@pytest.mark.parametrize("kind", list(TAKES))
def test_a_model_that_takes_a_mask_and_positions_is_known_as_such(models: dict[str, nn.Module], kind: str) -> None:
    assert takes_forests(models[kind])
    _check(models[kind], _batch(shared=20), longest=256)


@pytest.mark.parametrize("implementation", ["eager", attention.NAME])
def test_other_ways_to_attend_are_exact_too(implementation: str) -> None:
    model = _model(TAKES["gpt2"], None if implementation == attention.NAME else implementation)
    if implementation == attention.NAME:
        attention.use(model)
    assert model.config._attn_implementation == implementation and takes_forests(model)
    _check(model, _batch())


@pytest.mark.parametrize("kind", list(REFUSES))
def test_a_model_with_ways_of_its_own_takes_padded_rows(kind: str) -> None:
    model = _model(REFUSES[kind], "eager")
    assert not takes_forests(model)
    assert torch.equal(predicted(model, _batch()).logits, padded(model, _batch()).logits)


def test_a_model_that_ignores_positions_is_found_out(models: dict[str, nn.Module]) -> None:
    class Ignores(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, position_ids: Tensor | None = None, **given: Any) -> Any:
            return self.model(**given)

    assert not takes_forests(Ignores(models["llama"]))


def test_the_trial_changes_nothing(models: dict[str, nn.Module]) -> None:
    model = _model(TAKES["gpt2"]).train()
    before = torch.get_rng_state()
    assert takes_forests(model) and model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", [TAKES["gemma2"], GPTNeoConfig(
    **ENDS, vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
    window_size=64, max_position_embeddings=256)], ids=["by mask", "of its own"])  # fmt: skip
def test_beyond_a_window_rows_are_padded(config: Any) -> None:
    model = _model(config, "eager")
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, given: sizes.append(len(given["input_ids"])), with_kwargs=True)
    for shared, count in ((30, 4), (60, 6)):
        rows = _batch(shared, count)
        assert (len(plant(rows).ids) < 64) == (shared == 30)
        truth = padded(model, rows)
        found = predicted(model, rows)
        assert torch.allclose(found.logits[found.states], truth.logits[truth.states], atol=1e-4)
        assert (sizes[-1] == 1) == (shared == 30)  # over the forest all is one row


def _operations(model: nn.Module, rows: Sequence[Tokens], way: Any) -> int:
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        way(model, rows)
    return counted.get_total_flops()


@pytest.mark.parametrize("kind", list(TAKES))
def test_a_shared_beginning_saves_most_operations(models: dict[str, nn.Module], kind: str) -> None:
    rows = _batch(shared=50, count=3) if kind == "gemma2" else _batch(shared=100, count=12)
    assert takes_forests(models[kind])
    saved = _operations(models[kind], rows, predicted) / _operations(models[kind], rows, padded)
    assert saved < (0.6 if kind == "gemma2" else 0.4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_with_nothing_shared_rows_stay_padded(implementation: str) -> None:
    model = _model(TAKES["llama"], implementation)
    rows = [row(*[(n + place) % 40 for place in range(50)], learn=9) for n in range(8)]
    assert takes_forests(model)  # the trial has operations of its own
    assert _operations(model, rows, predicted) == _operations(model, rows, padded)
