"""What a run publishes is an ordinary PEFT adapter or transformers model, equal to what weft talks with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.models.load import load
from weft.progress import Silent
from weft.road.open import open_model
from weft.road.tune import load_tuned
from weft.road.whole import train_only

IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(3))


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def trained(tmp_path: Path, tiny: str, topics: Any, write_json: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains with the given flags; the run."""
    monkeypatch.chdir(tmp_path)
    data = write_json(tmp_path / "a.jsonl", topics())

    def train(**flags: Any) -> Any:
        settings = {"base": tiny, "learning_rate": 1e-2, "epochs": 1, **flags}
        return train_only(data, "run", None, settings, Silent())[0]

    return train


def test_plain_peft_gives_the_logits_that_weft_talks_with(trained: Any, tiny: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = trained(lora={"r": 4})
    ours = _logits(load_tuned(run).model)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), str(run.path("adapter"))).eval()
    assert (ours - _logits(theirs)).abs().max() <= 1e-4
    assert (ours - _logits(load(tiny).model)).abs().max() > 1e-2
    assert torch.allclose(ours, _logits(open_model(str(run.folder)).base.model), atol=1e-5)
    assert torch.allclose(ours, _logits(open_model(str(run.path("adapter"))).base.model), atol=1e-5)


def test_a_full_fine_tuning_publishes_a_model_that_transformers_loads(trained: Any, tiny: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = trained(full=True)
    ours = load_tuned(run)
    theirs = AutoModelForCausalLM.from_pretrained(run.path("model")).eval()
    written = dict(theirs.named_parameters())
    assert {name for name, _ in ours.model.named_parameters()} == written.keys()
    assert all(torch.equal(parameter, written[name]) for name, parameter in ours.model.named_parameters())
    assert torch.allclose(_logits(ours.model), _logits(theirs), atol=1e-5)
    assert not torch.allclose(_logits(theirs), _logits(load(tiny).model), atol=1e-2)
    assert AutoTokenizer.from_pretrained(run.path("model")).chat_template == ours.chat.template
    assert not run.has("adapter")
    assert json.loads(run.path("training.json").read_text())["trainable_parameters"] == ours.parameters


def test_an_adapter_whose_settings_are_damaged_is_refused_in_words(tmp_path: Path) -> None:
    from weft.errors import ModelError

    config = tmp_path / "adapter_config.json"
    config.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        open_model(str(tmp_path))
    config.write_text("[]")
    with pytest.raises(ModelError, match="cannot be read"):
        open_model(str(tmp_path))
    config.write_text("{}")
    with pytest.raises(ModelError, match="names no base"):
        open_model(str(tmp_path))


def test_a_run_without_a_model_says_how_to_go_on(tmp_path: Path, tiny: str, topics: Any, write_json: Any) -> None:
    from weft.errors import ModelError
    from weft.road.whole import begin

    begin(write_json(tmp_path / "a.jsonl", topics(40)) and str(tmp_path / "a.jsonl"), str(tmp_path / "run"), None,
          {"base": tiny}, Silent())  # fmt: skip
    with pytest.raises(ModelError, match=r"no trained model yet\. Continue it with: weft run"):
        open_model(str(tmp_path / "run"))
