"""What comes beside the log-probabilities: which tokens were the likeliest, mean log-probabilities, heads in chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig

from weft.forest import logprobs
from weft.forest.logprobs import learned_logprobs, learned_tokens, token_logprobs
from weft.models import decoder, lora
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.lora import LoraConfig
from weft.records import Tokens
from weft.testing import tiny_model
from weft.train.losses import smoothed

WORDS = 11
ROWS = [
    Tokens(tuple((3 * n + place * place) % WORDS for place in range(6 + n)), (False,) * 3 + (True,) * (3 + n))
    for n in range(6)
]


Both = tuple[Decoder, Any]


@pytest.fixture(scope="module", params=["tied", "untied"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A compact model, and the same in transformers as float64."""
    shape = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, **heads, tie_word_embeddings=request.param == "tied"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.4 if parameter.ndim > 1 else 1 + 0.1 * noise)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return _compact(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def _compact(folder: Path) -> Decoder:
    config = DecoderConfig.read(folder)
    assert config is not None
    return decoder.load(folder, config, [folder / "model.safetensors"], torch.float32).eval()


def _logits(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits (N, V) before every learned token and the tokens, row by row: the definition."""
    found, targets = [], []
    for row in ROWS:
        whole = model(input_ids=torch.tensor([row.ids])).logits[0]
        places = [place for place, learn in enumerate(row.learn) if learn]
        found.append(whole[[place - 1 for place in places]])
        targets += [row.ids[place] for place in places]
    return torch.cat(found), torch.tensor(targets)


def test_a_token_is_right_where_no_other_is_likelier(both: Both) -> None:
    ours, theirs = both
    logits, targets = _logits(theirs)
    expected = logits.argmax(-1) == targets
    assert 0 < int(expected.sum()) < len(expected)
    given = learned_tokens(ours, ROWS)
    assert given.right.tolist() == expected.tolist() and given.means is None
    assert torch.equal(given.logprobs, learned_logprobs(ours, ROWS))


@pytest.mark.parametrize("held", [1, 30, 10**6])
def test_chunks_change_neither_which_are_right_nor_the_means(
    both: Both, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS", held)
    logits, targets = _logits(both[1])
    given = learned_tokens(both[0], ROWS, means=True)
    assert given.right.tolist() == (logits.argmax(-1) == targets).tolist()
    assert given.means is not None
    assert torch.allclose(given.means.double(), logits.log_softmax(-1).mean(-1), atol=1e-5)


@pytest.mark.parametrize("held", [30, 10**6])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_losses_and_their_gradients_are_those_of_cross_entropy(
    both: Both, monkeypatch: pytest.MonkeyPatch, smoothing: float, held: int
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS", held)
    ours, theirs = both
    given = learned_tokens(ours, ROWS, means=True)
    assert given.means is not None
    loss = smoothed(given.logprobs, given.means, 1 / len(given.logprobs), smoothing)
    expected = functional.cross_entropy(*_logits(theirs), label_smoothing=smoothing)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    named = dict(theirs.named_parameters())
    mine = dict(ours.named_parameters())
    found = torch.autograd.grad(loss, list(mine.values()))
    truth = torch.autograd.grad(expected, [named[name] for name in mine])
    size = torch.cat([gradient.flatten() for gradient in truth]).norm()
    for one, other in zip(found, truth, strict=True):
        assert (one - other).norm() <= 1e-5 * (other.norm() + 0.1 * size)


def test_the_sums_of_states_have_their_own_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(n, 6, generator=generator).requires_grad_() for n in (4, 9)]
    states, targets = torch.tensor([3, 0, 3, 2]), torch.tensor([1, 8, 1, 0])
    pull = torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = torch.autograd.grad(token_logprobs(*leaves, states, targets)[1], leaves, pull)
    expected = torch.autograd.grad((leaves[0] @ leaves[1].T).logsumexp(-1), leaves, pull)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


def _adapted_head(model: nn.Module) -> list[nn.Parameter]:
    learned = lora.wrap(model, LoraConfig(r=3, alpha=5.0, targets=("q_proj", "lm_head"), dora=True), seed=0)
    for parameter in learned:
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.2)
    return learned


def _head_with_own_rows(model: nn.Module) -> list[nn.Parameter]:
    return lora.wrap(model, LoraConfig(r=3, targets=("q_proj",)), seed=0, tokens=(4,))


@pytest.mark.parametrize("adapt", [_adapted_head, _head_with_own_rows])
def test_an_adapted_head_in_chunks_is_the_same_and_never_whole(
    both: Both, monkeypatch: pytest.MonkeyPatch, adapt: Callable[[nn.Module], list[nn.Parameter]]
) -> None:
    model = both[0]
    if adapt is _adapted_head and model.lm_head.weight is model.model.embed_tokens.weight:
        pytest.skip("a tied head carries no adapter")
    learned = adapt(model)
    monkeypatch.setattr(logprobs, "MANY_ROWS", 0)
    sizes: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _given, out: sizes.append(out.numel()))

    def worked(held: int) -> list[Tensor]:
        monkeypatch.setattr(logprobs, "LOGITS", held)
        given = learned_tokens(model, ROWS, means=True)
        assert given.means is not None
        loss = smoothed(given.logprobs, given.means, torch.cos(torch.arange(len(given.logprobs))), 0.2)
        gradients = torch.autograd.grad(loss, learned)
        with torch.no_grad():
            quiet = learned_logprobs(model, ROWS)
        return [given.logprobs.detach(), given.means.detach(), given.right.float(), quiet, *gradients]

    try:
        whole, parts = worked(10**6), worked(3 * WORDS)
    finally:
        hook.remove()
        lora.unwrap(model)
        model.requires_grad_(True)
    assert max(sizes[2:]) <= 3 * WORDS < sizes[0]
    for one, other in zip(parts, whole, strict=True):
        assert (one - other).norm() <= 1e-5 * max(1.0, float(other.norm()))


@pytest.mark.parametrize("kind", ["gpt2", "gemma"])
def test_other_models_tell_the_same_beside_over_padded_rows(kind: Any) -> None:
    ours, theirs = tiny_model(kind, vocabulary=WORDS), tiny_model(kind, vocabulary=WORDS).double()
    logits, targets = _logits(theirs)
    given = learned_tokens(ours, ROWS, means=True)
    assert given.means is not None and given.right.tolist() == (logits.argmax(-1) == targets).tolist()
    assert torch.allclose(given.means.double(), logits.log_softmax(-1).mean(-1), atol=1e-4)
    loss = smoothed(given.logprobs, given.means, 1 / len(targets), 0.1)
    expected = functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_without_anything_to_learn_tell_nothing(both: Both, kind: Any) -> None:
    model = both[0] if kind == "llama" else tiny_model(kind, vocabulary=WORDS)
    given = learned_tokens(model, [Tokens((1, 2), (False, False))], means=True)
    assert given.means is not None
    assert (len(given.logprobs), len(given.right), len(given.means)) == (0, 0, 0)
