"""What a run publishes is an ordinary PEFT adapter or transformers model, equal to what weft talks with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.cli import main
from weft.generate import engine
from weft.models.load import load
from weft.models.precision import for_answering
from weft.progress import Silent
from weft.records import Message
from weft.road.open import open_model
from weft.road.tune import load_tuned
from weft.road.whole import train_only
from weft.testing import save_base

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


def test_plain_peft_gives_the_logits_of_a_chat_also_where_answers_are_measured_in_narrower_numbers(
    tmp_path: Path, topics: Any, write_json: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("weft.models.precision.for_training", lambda device: "bfloat16")
    base = save_base(tmp_path / "narrow")
    weights = load_file(base / "model.safetensors")
    save_file({name: part.bfloat16() for name, part in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert for_answering(load(str(base))) == "bfloat16"
    monkeypatch.chdir(tmp_path)
    flags = {"base": str(base), "learning_rate": 1e-2, "epochs": 1, "precision": "float32"}
    run = train_only(write_json(tmp_path / "a.jsonl", topics()), "run", None, flags, Silent())[0]

    seen: list[torch.Tensor] = []
    pick = engine.pick

    def watched(logits: torch.Tensor, *rest: Any) -> Any:
        seen.append(logits.clone())
        return pick(logits, *rest)

    monkeypatch.setattr(engine, "pick", watched)
    with pytest.raises(SystemExit) as end:
        main(["chat", "run", "--prompt", "invoice bo", "--max-tokens", "1", "--free"])
    assert end.value.code in (0, None)
    ids = load(str(base)).chat.prompt([Message("user", "invoice bo")])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, str(run.path("adapter"))).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, -1]
    assert (seen[0][0] - expected).abs().max() <= 1e-4


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
