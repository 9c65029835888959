"""DoRA against PEFT, the independent truth: same logits, same gradients, and each reads the other's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weft.errors import ModelError
from weft.forest.logprobs import learned_logprobs
from weft.models import lora
from weft.models.decoder import Decoder
from weft.models.load import load
from weft.models.lora import LoraConfig
from weft.models.precision import frozen_as, numbers
from weft.records import Tokens
from weft.testing import save_base, tiny_model

KINDS = ["llama", "qwen3", "gpt2", "gemma"]
IDS = torch.randint(0, 256, (2, 14), generator=torch.Generator().manual_seed(1))
DORA = LoraConfig(r=4, alpha=6, dora=True)


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def _moved(model: nn.Module, config: LoraConfig = DORA) -> nn.Module:
    """Wrapped, with A, B and magnitudes that are no longer those of the start."""
    generator = torch.Generator().manual_seed(5)
    lora.wrap(model, config, seed=0)
    with torch.no_grad():
        for layer in lora.layers(model).values():
            for name, part in layer.parts().items():
                noise = torch.randn(part.shape, generator=generator)
                part.copy_(part * (1 + 0.2 * noise) if "magnitude" in name else 0.1 * noise)
    return model


def _saved(folder: Path, kind: Any = "llama", config: LoraConfig = DORA) -> nn.Module:
    model = _moved(tiny_model(kind), config)
    lora.save_adapter(model, folder, base_name="tiny", config=config)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_peft_computes_the_same_from_our_dora_files(tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    ours = _saved(tmp_path / "a", kind)
    theirs = PeftModel.from_pretrained(tiny_model(kind), str(tmp_path / "a"))
    assert torch.allclose(_logits(ours), _logits(theirs), atol=1e-5)
    plain = tiny_model(kind)
    lora.load_adapter(plain, tmp_path / "a")
    assert torch.equal(_logits(plain), _logits(ours))
    for layer in lora.layers(plain).values():  # the lengths do matter here
        nn.init.ones_(layer.parts()["lora_magnitude_vector"])
    assert not torch.allclose(_logits(plain), _logits(ours), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_we_compute_the_same_from_pefts_dora_files(tmp_path: Path, kind: Any) -> None:
    import peft

    settings = peft.LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True, use_rslora=True)
    theirs = peft.get_peft_model(tiny_model(kind), settings).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        if "magnitude" in name:
            nn.init.uniform_(parameter, 0.5, 2.0)
    theirs.save_pretrained(tmp_path)
    model = tiny_model(kind)
    config = lora.load_adapter(model, tmp_path)
    assert torch.allclose(_logits(model), _logits(theirs), atol=1e-5)
    assert config.dora and config.rslora and lora.trainable_count(model) == 0


@pytest.mark.parametrize(
    ("kind", "dropout"),
    [("llama", 0.0), ("llama", 0.3), ("gpt2", 0.0)],  # GPT-2: stored transposed, with biases, a dropout of its own
)
def test_gradients_of_dora_are_those_of_peft(tmp_path: Path, kind: Any, dropout: float) -> None:
    from peft import PeftModel

    _saved(tmp_path / "a", kind, DORA.model_copy(update={"dropout": dropout}))
    ours = tiny_model(kind)
    lora.load_adapter(ours, tmp_path / "a", trainable=True)
    theirs = PeftModel.from_pretrained(tiny_model(kind), str(tmp_path / "a"), is_trainable=True)
    for model in (ours, theirs):
        model.train(dropout > 0)
    for model in (ours, theirs):
        torch.manual_seed(3)
        model(IDS, labels=IDS).loss.backward()
    expected = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, layer in lora.layers(ours).items():
        for part, parameter in layer.parts().items():
            key = f"base_model.model.{name}.{part}.default.weight"
            assert torch.allclose(parameter.grad, expected[key], rtol=1e-4, atol=1e-5), key  # type: ignore[arg-type]
        assert layer.weight.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_dora_model_answers_as_the_adapted_one(kind: Any) -> None:
    model = _moved(tiny_model(kind))
    adapted = _logits(model)
    lora.fuse(model)
    assert torch.allclose(_logits(model), adapted, atol=1e-4)
    assert set(model.state_dict()) == set(tiny_model(kind).state_dict())


def test_fresh_dora_changes_nothing_and_the_base_comes_back() -> None:
    model = tiny_model()
    trained = lora.wrap(model, DORA, 0)
    assert torch.equal(_logits(model), _logits(tiny_model()))
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained}
    model = _moved(tiny_model())
    with lora.disabled(model):
        assert torch.equal(_logits(model), _logits(tiny_model()))
    lora.unwrap(model)
    assert torch.equal(_logits(model), _logits(tiny_model()))


def test_the_decoder_learns_dora_with_the_gradients_of_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    _saved(tmp_path / "a")
    decoder = load(str(save_base(tmp_path / "base"))).model
    assert isinstance(decoder, Decoder)
    lora.load_adapter(decoder, tmp_path / "a", trainable=True)
    rows = [Tokens(tuple(ids.tolist()), (False, *[True] * 13)) for ids in IDS]
    ours = learned_logprobs(decoder, rows).mean()
    ours.backward()
    theirs = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "a"), is_trainable=True)
    loss = theirs(IDS, labels=IDS).loss
    (-loss).backward()
    assert ours.item() == pytest.approx(-loss.item(), abs=1e-5)
    expected = dict(theirs.named_parameters())
    for name, layer in lora.layers(decoder).items():
        for part, parameter in layer.parts().items():
            truth = expected[f"base_model.model.{name}.{part}.default.weight"].grad
            assert torch.allclose(parameter.grad, truth, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_lengths_stay_wide_where_the_frozen_weights_are_narrow(tmp_path: Path) -> None:
    decoder = _moved(load(str(save_base(tmp_path / "base"))).model)
    rows = [Tokens(tuple(ids.tolist()), (False, *[True] * 13)) for ids in IDS]
    wide = learned_logprobs(decoder, rows).detach()
    with frozen_as(decoder, "bfloat16"), numbers(decoder, "bfloat16"):
        layer = next(iter(lora.layers(decoder).values()))
        assert layer.weight.dtype == torch.bfloat16
        found = learned_logprobs(decoder, rows)
        found.mean().backward()
        for part in layer.parts().values():
            assert part.dtype == torch.float32 and part.grad is not None and part.grad.dtype == torch.float32
    assert float((found - wide).abs().mean()) < 0.05  # bfloat16 has eight bits
    assert torch.equal(learned_logprobs(decoder, rows), wide)  # and everything is as before


def test_an_adapter_that_promises_lengths_must_bring_them(tmp_path: Path) -> None:
    _saved(tmp_path / "a", config=LoraConfig(r=4))
    path = tmp_path / "a" / lora.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(ModelError, match=r"has shapes .*expected .*lora_magnitude_vector"):
        lora.load_adapter(tiny_model(), tmp_path / "a")
