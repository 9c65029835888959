"""The compact decoder against transformers, the independent truth: the same logits for every family that it covers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from weft.errors import ModelError
from weft.models import decoder
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.export import save_model
from weft.models.load import load
from weft.models.nano import folder as nano
from weft.testing import save_base

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, biases everywhere": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama, linear rope": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    ),
    "llama 3 rope": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama, wide heads": LlamaConfig(**SHAPE, head_dim=20),
    "llama, one head for all keys": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
    "smollm": LlamaConfig(
        **SHAPE | {"num_attention_heads": 6, "num_key_value_heads": 3},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, window as long as the context": MistralConfig(**SHAPE, sliding_window=128),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
    "qwen3, biases": Qwen3Config(**SHAPE, head_dim=16, attention_bias=True),
}
IDS = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(1))


def _reference(config: PretrainedConfig) -> Any:
    """A model of transformers whose every number is random, biases and norms too."""
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else noise * parameter.shape[-1] ** -0.5)
    return model


def _compact(folder: Path) -> Decoder:
    config = DecoderConfig.read(folder)
    assert config is not None
    return decoder.load(folder, config, [folder / "model.safetensors"], torch.float32).eval()


def _pair(folder: Path, family: str) -> tuple[Decoder, Any]:
    reference = _reference(FAMILIES[family])
    reference.save_pretrained(folder)
    return _compact(folder), reference


def _same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    ours, theirs = _pair(tmp_path, family)
    expected = theirs(IDS).logits
    assert expected.std() > 0.1
    _same(ours(IDS).logits, expected)
    assert {name for name, _ in ours.named_parameters()} == {name for name, _ in theirs.named_parameters()}


@pytest.mark.parametrize("family", ["llama 3 rope", "qwen2", "qwen3"])
@torch.no_grad()
def test_logits_are_the_same_behind_a_cache(tmp_path: Path, family: str) -> None:
    ours, theirs = _pair(tmp_path, family)
    caches = DynamicCache(), DynamicCache()
    for part in IDS.split([11, 1, 1, 7, 20], 1):
        found = [m(part, past_key_values=c, use_cache=True).logits for m, c in zip((ours, theirs), caches, strict=True)]
        _same(*found)


@pytest.mark.parametrize("held", [0, 25])
@pytest.mark.parametrize("kept", [0, 1, 7, 15, 99])
@torch.no_grad()
def test_logits_to_keep_are_the_last_columns(tmp_path: Path, kept: int, held: int) -> None:
    ours, theirs = _pair(tmp_path, "qwen3")
    places = torch.arange(held, held + 15).expand(2, -1)
    found = []
    for model in (ours, theirs):
        cache = DynamicCache()
        if held:
            model(IDS[:, :held], past_key_values=cache)
        given = {"position_ids": places, "past_key_values": cache, "use_cache": True, "logits_to_keep": kept}
        found.append(model(IDS[:, held : held + 15], **given).logits)
    assert found[0].shape[1] == min(kept or 15, 15)
    _same(*found)


@pytest.mark.parametrize("name", ["nano", "tinystories-260k"])
@torch.no_grad()
def test_trained_models_give_the_same_logits(request: pytest.FixtureRequest, name: str) -> None:
    folder = nano() if name == "nano" else request.getfixturevalue("shared") / "data/models/tinystories-260k/hf"
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, theirs.config.vocab_size, (2, 30), generator=torch.Generator().manual_seed(2))
    ours, expected = _compact(folder)(ids).logits, theirs(ids).logits
    # Logits of a trained model reach 20, so the bound is relative to the largest.
    assert (ours - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def _described(folder: Path, **values: Any) -> Path:
    """The base in `folder` with other settings; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    gone = {key for key, value in values.items() if value is None}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in gone}))
    return folder


YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}


@pytest.mark.parametrize(
    "values",
    [
        MISTRAL | {"sliding_window": 8},
        {"hidden_act": "gelu"},
        {"rope_parameters": YARN},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_parameters": None, "rope_scaling": YARN},
    ],
    ids=["sliding window", "gelu", "yarn", "dynamic", "yarn in the old spelling"],
)
@torch.no_grad()
def test_what_is_not_covered_goes_to_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = _described(save_base(tmp_path / "base"), **values)
    base = load(str(folder))
    assert not isinstance(base.model, Decoder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    _same(base.model(IDS).logits, theirs(IDS).logits)


@pytest.mark.parametrize(
    "values",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"model_type": "qwen2", "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 8},
        {"model_type": "gemma"},
        {"pretraining_tp": 2},
        {"model_type": "mistral", "max_position_embeddings": 8192},  # a window of 4,096 is Mistral's default
    ],
)
def test_no_shape_is_read_from_a_config_that_is_not_covered(tmp_path: Path, values: dict[str, Any]) -> None:
    LlamaConfig(**SHAPE).save_pretrained(tmp_path)
    assert DecoderConfig.read(_described(tmp_path, **values)) is None


@torch.no_grad()
def test_without_compact_everything_goes_to_transformers(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    ours, theirs = load(str(folder)).model, load(str(folder), compact=False).model
    assert isinstance(ours, Decoder) and not isinstance(theirs, Decoder)
    _same(ours(IDS).logits, theirs(IDS).logits)


LEFT_OUT = ["rope_parameters", "rms_norm_eps", "max_position_embeddings", "num_key_value_heads", "head_dim",
            "tie_word_embeddings", "sliding_window", "attention_bias", "hidden_act"]  # fmt: skip


@pytest.mark.parametrize("key", LEFT_OUT)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_setting_that_is_left_out_means_what_it_means_to_transformers(tmp_path: Path, family: str, key: str) -> None:
    FAMILIES[family].save_pretrained(tmp_path)
    _described(tmp_path, **{key: None})
    ours, theirs = DecoderConfig.read(tmp_path), AutoConfig.from_pretrained(tmp_path)
    if ours is None:
        return  # transformers reads it itself
    window = getattr(theirs, "sliding_window", None)
    assert window is None or window >= theirs.max_position_embeddings
    assert ours.num_key_value_heads == theirs.num_key_value_heads
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert dict(ours.rope)["rope_theta"] == theirs.rope_parameters["rope_theta"]
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)


@torch.no_grad()
def test_the_old_spelling_of_rotary_settings_is_read_too(tmp_path: Path) -> None:
    _, theirs = _pair(tmp_path, "llama 3 rope")
    old = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    _described(tmp_path, rope_parameters=None, rope_theta=LLAMA3["rope_theta"], rope_scaling=old)
    _same(_compact(tmp_path)(IDS).logits, theirs(IDS).logits)


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    _pair(tmp_path, "qwen2")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.self_attn.q_proj.bias"]
    save_file(tensors, path)
    with pytest.raises(
        ModelError, match=r"1 weights are missing, for example model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        _compact(tmp_path)


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path: Path) -> None:
    _pair(tmp_path, "llama")
    _described(tmp_path, vocab_size=98)
    with pytest.raises(
        ModelError, match=r"2 weights have another shape .*embed_tokens.*\(97, 48\), expected \(98, 48\)"
    ):
        _compact(tmp_path)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_attention_heads"])
def test_a_config_without_its_shape_is_no_traceback(tmp_path: Path, key: str) -> None:
    folder = _described(save_base(tmp_path / "base"), **{key: None})
    with pytest.raises(ModelError):
        load(str(folder))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@torch.no_grad()
def test_transformers_reads_a_saved_decoder(tmp_path: Path, kind: Any) -> None:
    base = load(str(save_base(tmp_path / "base", kind)))
    assert isinstance(base.model, Decoder)
    base.model.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(1.5)
    save_model(base, tmp_path / "saved")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert theirs.dtype == torch.float32
    _same(base.model(IDS).logits, theirs(IDS).logits)
    _same(load(str(tmp_path / "saved")).model(IDS).logits, theirs(IDS).logits)
