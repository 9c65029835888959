"""The serving pass against `load_adapter` and plain forward passes, each request alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from tests.generate.conftest import KINDS, alone, prompts, save_random_adapter
from weft.errors import ModelError
from weft.generate.adapters import room_of
from weft.generate.passes import DecoderPass
from weft.generate.work import Work
from weft.models import decoder, lora
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.load import Base
from weft.models.lora_config import LoraConfig
from weft.models.lora_files import read_adapter

SHAPE: dict[str, Any] = {
    "vocab_size": 264, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
FAMILIES = {
    "own head": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "biases everywhere": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "biases on query, key and value": Qwen2Config(**SHAPE),
    "norms on query and key": Qwen3Config(**SHAPE, head_dim=20, tie_word_embeddings=True),
    "one head for all keys": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
}


def served(model: Decoder, folder: Path, names: list[str]) -> tuple[DecoderPass, dict[str | None, Any]]:
    owner, room = DecoderPass(model, 256, torch.float32), room_of(model)
    ready = {name: owner.pack(name, read_adapter(folder / name, room))[0] for name in names}
    return owner, {None: None, **ready}


def run(
    owner: DecoderPass, ready: dict[str | None, Any], rows: list[tuple[str | None, list[int]]],
    expected: list[list[int]], chunk: int, joins: list[int],
) -> list[torch.Tensor]:  # fmt: skip
    """The logits of all rows, which join at these steps, read `chunk` tokens a step and are fed `expected`."""
    seats = [owner.open(len(prompt)) for _, prompt in rows]
    read, found = [0] * len(rows), [[] for _ in rows]
    step = 0
    while any(len(have) < len(want) for have, want in zip(found, expected, strict=True)):
        works, turns = [], []
        for i, (name, prompt) in enumerate(rows):
            if joins[i] > step or len(found[i]) == len(expected[i]):
                continue
            if read[i] < len(prompt):
                ids = prompt[read[i] : read[i] + chunk]
                read[i] += len(ids)
                works.append(Work(seats[i], ready[name], ids, read[i] == len(prompt), False))
            else:
                works.append(Work(seats[i], ready[name], [expected[i][len(found[i]) - 1]], True, True))
            turns.append(i)
        logits = iter(owner.forward(works)) if works else iter(())
        for i, work in zip(turns, works, strict=True):
            if work.asks:
                found[i].append(next(logits))
                if len(found[i]) == len(expected[i]):
                    owner.close(seats[i])
        step += 1
    return [torch.stack(rows) for rows in found]


@pytest.mark.parametrize("chunk", [7, 300])
def test_every_row_of_a_mixed_batch_is_answered_as_if_alone(base: Base, adapters: Path, chunk: int) -> None:
    names: list[str | None] = [*KINDS, None]
    asked = [(names[i % len(names)], prompt) for i, prompt in enumerate(prompts(14, most=140))]
    truth = [alone(base, prompt, 6, adapters / name if name else None) for name, prompt in asked]
    owner, ready = served(base.model, adapters, list(KINDS))  # type: ignore[arg-type]
    found = run(owner, ready, asked, [ids for ids, _ in truth], chunk, [i // 3 for i in range(14)])
    for logits, (_, expected) in zip(found, truth, strict=True):
        assert (logits - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_of_the_family_is_served(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(FAMILIES[family])
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    reference.save_pretrained(tmp_path)
    config = DecoderConfig.read(tmp_path)
    assert config is not None
    model = decoder.load(tmp_path, config, [tmp_path / "model.safetensors"], torch.float32)
    made: Any = type("B", (), {"model": model.eval().requires_grad_(False)})()
    targets = ("q_proj", "o_proj", "up_proj") + (() if config.tie_word_embeddings else ("lm_head",))
    save_random_adapter(model, tmp_path / "a", LoraConfig(r=4, targets=targets), (), 1)
    save_random_adapter(model, tmp_path / "b", LoraConfig(r=2, dora=True), (9, 11), 2)
    asked = [(name, prompt) for name, prompt in zip(["a", None, "b", "a", "b"], prompts(5), strict=True)]
    truth = [alone(made, prompt, 4, tmp_path / name if name else None) for name, prompt in asked]
    owner, ready = served(model, tmp_path, ["a", "b"])
    found = run(owner, ready, asked, [ids for ids, _ in truth], 300, [0, 0, 0, 1, 2])
    for logits, (_, expected) in zip(found, truth, strict=True):
        assert (logits - expected).abs().max() <= 1e-4


def test_the_model_answers_as_before_once_its_matrices_are_joined(base: Base) -> None:
    before = alone(base, [1, 2, 3], 3)[1]
    DecoderPass(base.model, 256, torch.float32)  # type: ignore[arg-type]
    assert torch.equal(alone(base, [1, 2, 3], 3)[1], before) or torch.allclose(
        alone(base, [1, 2, 3], 3)[1], before, atol=1e-5
    )
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight  # type: ignore[union-attr]


def test_many_adapters_pass_through_few_columns(base: Base, tmp_path: Path) -> None:
    names = [f"{i}" for i in range(12)]
    for i, name in enumerate(names):
        save_random_adapter(base.model, tmp_path / name, LoraConfig(r=3 + i % 4), (), i)
    asked = [(name, prompt) for name, prompt in zip(names, prompts(12), strict=True)]
    truth = [alone(base, prompt, 5, tmp_path / name) for name, prompt in asked]
    owner, ready = served(base.model, tmp_path, names)  # type: ignore[arg-type]
    found = run(owner, ready, asked, [ids for ids, _ in truth], 20, [3 * i for i in range(12)])
    for logits, (_, expected) in zip(found, truth, strict=True):
        assert (logits - expected).abs().max() <= 1e-4


def test_an_adapter_that_overflows_harms_no_other_row(base: Base, adapters: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, alpha=4)
    lora.wrap(base.model, config, 0)
    with torch.no_grad():
        for layer in lora.layers(base.model).values():
            layer.lora_A.fill_(1e38)
            layer.lora_B.fill_(1e38)
    lora.save_adapter(base.model, tmp_path / "huge", base_name="tiny", config=config)
    lora.unwrap(base.model)
    prompt = prompts(1)[0]
    ids, expected = alone(base, prompt, 5, adapters / "plain")
    owner, ready = served(base.model, adapters, ["plain"])  # type: ignore[arg-type]
    ready["huge"] = owner.pack("huge", read_adapter(tmp_path / "huge", room_of(base.model)))[0]
    found = run(owner, ready, [("plain", prompt), ("huge", prompt)], [ids, ids], 300, [0, 0])
    assert (found[0] - expected).abs().max() <= 1e-4
    assert not torch.isfinite(found[1]).all()


def test_an_adapter_too_large_for_the_number_format_is_refused(base: Base, tmp_path: Path) -> None:
    config = LoraConfig(r=4, alpha=4000)
    lora.wrap(base.model, config, 0)
    with torch.no_grad():
        next(iter(lora.layers(base.model).values())).lora_B.fill_(1e38)
    lora.save_adapter(base.model, tmp_path / "huge", base_name="tiny", config=config)
    lora.unwrap(base.model)
    owner = DecoderPass(base.model, 256, torch.float32)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj holds numbers too large to be served as"):
        owner.pack("h", read_adapter(tmp_path / "huge", room_of(base.model)))


def test_bfloat16_is_close_to_float32(adapters: Path, base: Base) -> None:
    from weft.models.load import load

    own = load(str(base.folder))  # its matrices become bfloat16 for good
    asked = [(name, prompt) for name, prompt in zip(["plain", None, "dora"], prompts(3), strict=True)]
    truth = [alone(base, prompt, 3, adapters / name if name else None) for name, prompt in asked]
    owner = DecoderPass(own.model, 256, torch.bfloat16)  # type: ignore[arg-type]
    room = room_of(own.model)
    ready = {None: None} | {
        name: owner.pack(name, read_adapter(adapters / name, room))[0] for name in ("plain", "dora")
    }
    found = run(owner, ready, asked, [ids for ids, _ in truth], 300, [0, 0, 0])
    for logits, (_, expected) in zip(found, truth, strict=True):
        assert (logits - expected).norm() / expected.norm() < 0.05
