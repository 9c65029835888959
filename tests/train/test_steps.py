"""What all methods share: LoRA+ moves the B matrices faster, NEFTune is noise of the right size, time ends a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.errors import ModelError, SettingsError
from weft.models import lora
from weft.models.lora_config import LoraConfig
from weft.progress import Silent
from weft.records import Conversation, Message, Tokens
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import sft, steps
from weft.train.neftune import noisy_embeddings
from weft.train.sft_config import SftConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _examples(count: int, start: int = 0) -> list[Conversation]:
    return [
        Conversation((Message("user", f"say {n}"), Message("assistant", f"{n}")), line=n + 1)
        for n in range(start, start + count)
    ]


def _train(folder: Path, base: Any = None, **values: Any) -> Any:
    ready = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 256, "validate_every": 4, "batch_size": 4}
    config = SftConfig.model_validate({**ready, "precision": "float32", "lora": {"r": 4}, **values})
    run = Run.create(folder, {"run": {}})
    return run, sft.train(run, base or tiny_base(), _examples(16), _examples(4, start=50), config, Silent())


def test_lora_plus_gives_the_b_matrices_their_own_rate(tmp_path: Path) -> None:
    # AdamW's first step is the rate itself, whatever the gradient: the two rates can be read off the weights.
    base = tiny_base()
    lora.wrap(base.model, LoraConfig(r=4), 0)
    start = {name: layer.lora_A.detach().clone() for name, layer in lora.layers(base.model).items()}
    lora.unwrap(base.model)
    _, record = _train(tmp_path / "r", base, lora_plus_ratio=8, epochs=1, batch_size=16, warmup=0, schedule="constant",
                       clip=1e9)  # fmt: skip
    assert record.steps == 1
    moved = [float(layer.lora_B.detach().abs().max()) for layer in lora.layers(base.model).values()]
    assert max(moved) == pytest.approx(8e-2, rel=1e-3)
    # B is zero at the start, so no gradient reaches A in the first step.
    assert all(torch.equal(layer.lora_A, start[name]) for name, layer in lora.layers(base.model).items())


def test_lora_plus_without_an_adapter_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"`lora_plus_ratio` is 4.*there is no adapter"):
        resolve(SftConfig, {"full": True, "lora_plus_ratio": 4}, environment={})
    with pytest.raises(SettingsError, match="greater than 0"):
        resolve(SftConfig, {"lora_plus_ratio": 0}, environment={})


def test_noise_on_embeddings_is_uniform_of_the_papers_size_and_only_inside() -> None:
    model = tiny_base().model
    embeddings, ids = model.get_input_embeddings(), torch.arange(200)[None]
    rows = [Tokens(tuple(range(40)), (False,) * 40), Tokens(tuple(range(60)), (False,) * 60)]
    clean = embeddings(ids)
    with noisy_embeddings(model, 5.0, rows):
        noise = (embeddings(ids) - clean).detach()
    bound = 5 / math.sqrt(50 * 32)
    assert bound * 0.99 < float(noise.abs().max()) <= bound * 1.0001
    assert float(noise.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert torch.equal(embeddings(ids), clean)
    before = torch.get_rng_state()
    with noisy_embeddings(model, 0.0, rows):
        assert torch.equal(embeddings(ids), clean)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ModelError, match="--neftune-alpha"), noisy_embeddings(model, 5.0, rows):
        pass  # a forward pass that goes round the embeddings


def test_noise_is_drawn_again_alike_after_a_kill_and_is_not_there_when_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, undisturbed = _train(tmp_path / "whole", neftune_alpha=5)
    plain, _ = _train(tmp_path / "plain")
    assert whole.metrics()[0]["loss"] != plain.metrics()[0]["loss"]
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save

    def dies(run: Run, state: Any, *rest: Any) -> None:
        save(run, state, *rest)
        if state.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", neftune_alpha=5)
    monkeypatch.setattr(steps, "save", save)
    cut, resumed = _train(tmp_path / "cut", neftune_alpha=5)
    assert cut.metrics() == whole.metrics() and resumed.best_loss == undisturbed.best_loss
    name = "adapter/adapter_model.safetensors"
    assert cut.path(name).read_bytes() == whole.path(name).read_bytes()


def test_the_time_limit_ends_training_after_one_look_at_least(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", max_minutes=1e-9, validate_every=100)
    assert (record.steps, record.best_step) == (1, 1)
    assert record.stopped_because == "the time limit of 1e-09 minutes"
    assert run.has("adapter")
