"""Rows of the vocabulary that learn, against PEFT's `trainable_token_indices`: same logits, gradients, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from weft.errors import ModelError, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models import lora
from weft.models.decoder import Decoder
from weft.models.load import load
from weft.models.lora import LoraConfig
from weft.models.precision import frozen_as, numbers
from weft.records import Tokens
from weft.testing import save_base, tiny_model

END = 258
IDS = torch.randint(0, 256, (2, 14), generator=torch.Generator().manual_seed(1))
IDS[:, [3, 9]] = END
CONFIG = LoraConfig(r=4)
KINDS = ["llama", "untied", "qwen3", "gpt2", "gemma"]


def _model(kind: Any = "llama") -> nn.Module:
    if kind != "untied":
        return tiny_model(kind)
    model = tiny_model()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    return model


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def _moved(model: nn.Module, tokens: tuple[int, ...] = (END,)) -> nn.Module:
    """Wrapped, with an adapter and rows that are no longer those of the start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.wrap(model, CONFIG, 0, tokens=tokens):
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def _saved(folder: Path, kind: Any = "llama", tokens: tuple[int, ...] = (END,)) -> nn.Module:
    model = _moved(_model(kind), tokens)
    lora.save_adapter(model, folder, base_name="tiny", config=CONFIG)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_peft_computes_the_same_from_our_rows(tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    ours = _saved(tmp_path / "a", kind, (END, 7))
    theirs = PeftModel.from_pretrained(_model(kind), str(tmp_path / "a"))
    assert torch.allclose(_logits(ours), _logits(theirs), atol=1e-5)
    again = _model(kind)
    lora.load_adapter(again, tmp_path / "a")
    assert torch.equal(_logits(again), _logits(ours))
    assert lora.trainable_count(again) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_we_compute_the_same_from_pefts_rows(tmp_path: Path, kind: Any) -> None:
    import peft

    model = _model(kind)
    tokens: Any = {"lm_head": [END]} if kind == "untied" else [END, 3]
    settings = peft.LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=tokens, use_dora=True
    )
    theirs = peft.get_peft_model(model, settings).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ours = _model(kind)
    lora.load_adapter(ours, tmp_path)
    assert torch.allclose(_logits(ours), _logits(theirs), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "untied"])
def test_gradients_of_rows_are_those_of_peft(tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    _saved(tmp_path / "a", kind)
    ours = _model(kind)
    lora.load_adapter(ours, tmp_path / "a", trainable=True)
    theirs = PeftModel.from_pretrained(_model(kind), str(tmp_path / "a"), is_trainable=True)
    for model in (ours, theirs):
        model(IDS, labels=IDS).loss.backward()
    (found,) = {id(m.rows): m.rows.grad for m in ours.modules() if hasattr(m, "rows")}.values()
    (expected,) = (p.grad for name, p in theirs.named_parameters() if "trainable_tokens_delta" in name)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert lora.trainable_count(ours) == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("tokens", [(END,), tuple(range(3, 200, 2))], ids=["one", "many"])
def test_the_decoder_learns_rows_with_the_gradients_of_peft(tmp_path: Path, tokens: tuple[int, ...]) -> None:
    from peft import PeftModel

    _saved(tmp_path / "a", tokens=tokens)
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
    found = decoder.lm_head.rows.grad
    (expected,) = (p.grad for name, p in theirs.named_parameters() if "trainable_tokens_delta" in name)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    with frozen_as(decoder, "bfloat16"), numbers(decoder, "bfloat16"):
        learned_logprobs(decoder, rows).mean().backward()
        assert decoder.lm_head.rows.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_fused_rows_answer_alike_and_fresh_or_disabled_ones_are_the_bases(kind: Any) -> None:
    plain = _model(kind)
    model = _model(kind)
    lora.wrap(model, CONFIG, 0, tokens=(END,))
    assert torch.allclose(_logits(model), _logits(plain), atol=1e-6)  # the row's product is made apart
    lora.unwrap(model)
    _moved(model)
    adapted = _logits(model)
    assert not torch.allclose(adapted, _logits(plain), atol=1e-2)
    with lora.disabled(model):
        assert torch.equal(_logits(model), _logits(plain))
    lora.fuse(model)
    assert torch.allclose(_logits(model), adapted, atol=1e-4)
    assert set(model.state_dict()) == set(plain.state_dict())
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == (kind != "untied")  # type: ignore[operator]


def test_only_the_row_learns_and_no_other_token_moves() -> None:
    model = _model()
    trained = lora.wrap(model, CONFIG, 0, tokens=(END,))
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained}
    plain = _logits(model)
    with torch.no_grad():
        trained[-1].add_(1.0)
    moved = _logits(model)
    # Up to the third token, which is the end token itself: its vector is read too.
    same = torch.arange(plain.shape[-1]) != END
    assert torch.equal(moved[:, :3, same], plain[:, :3, same])
    assert not torch.allclose(moved[:, :3, END], plain[:, :3, END])


def test_rows_that_cannot_be_carried_are_refused_and_nothing_is_changed() -> None:
    model = _model("untied")
    with pytest.raises(UsageError, match=r"names the output head: its rows learn already. Leave out --train-end"):
        lora.wrap(model, LoraConfig(r=4, targets=("lm_head",)), 0, tokens=(END,))
    model.lm_head = nn.Linear(32, 264)  # a bias, which PEFT would drop
    with pytest.raises(UsageError, match=r"a LlamaForCausalLM with this output layer keeps no row"):
        lora.wrap(model, CONFIG, 0, tokens=(END,))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"model.embed_tokens": [264]}, r"`trainable_token_indices` is .*264.*expected token ids of this base"),
        ({"model.embed_tokens": [3, 3]}, "expected token ids of this base, each once"),
        ({"model.embed_tokens": "x"}, "expected token ids of this base"),
        ({"lm_head": [END]}, "names 'lm_head'; rows that weft can replace in this base: model.embed_tokens"),
        ({"model.embed_tokens": [END, 3]}, r"has shapes .*expected .*\(2, 32\)"),
        (None, r"has no layer model\.embed_tokens"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, tokens: Any, message: str) -> None:
    _saved(tmp_path / "a")
    path = tmp_path / "a" / lora.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": tokens}))
    model = _model()
    with pytest.raises(ModelError, match=message):
        lora.load_adapter(model, tmp_path / "a")
    assert not lora.layers(model) and torch.equal(_logits(model), _logits(_model()))


def test_missing_rows_and_those_of_the_inputs_alone_are_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "a", "untied")
    path = tmp_path / "a" / lora.ADAPTER_CONFIG
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"trainable_token_indices": [END]}))
    with pytest.raises(ModelError, match=r"names 'the input embedding'; rows that weft can replace .*: lm_head"):
        lora.load_adapter(_model("untied"), tmp_path / "a")
    path.write_text(json.dumps(kept))
    weights = tmp_path / "a" / lora.ADAPTER_WEIGHTS
    save_file({key: tensor for key, tensor in load_file(weights).items() if "token_adapter" not in key}, weights)
    with pytest.raises(ModelError, match="names 1 tokens of lm_head without their rows"):
        lora.load_adapter(_model("untied"), tmp_path / "a")
