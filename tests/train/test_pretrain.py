"""Documents: the loss is that of transformers, it falls, general text is watched, the same bytes again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.errors import ResourceError, TrainError, UsageError
from weft.forest.logprobs import Learned, learned_tokens
from weft.models import memory
from weft.progress import Silent
from weft.records import Document
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import auto, likelihood, needs, pretrain, publish, steps
from weft.train.documents import Writer, packed
from weft.train.mix import Mix
from weft.train.pretrain import HeldOut
from weft.train.pretrain_config import PretrainConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _rows(word: str, numbers: range) -> list[Any]:
    writer = Writer.of(tiny_base(), 48)
    return [row for n in numbers for row in writer.rows(Document(f"{word} {n} " * (1 + n % 7), ""))]


def _mix(**values: Any) -> Mix:
    general = packed(_rows("sun", range(6)), 48)
    ready = {"packs": packed(_rows("moon", range(20)), 48), "replay": general, "share": 0.2, "seed": 0}
    return Mix(**{**ready, **values})


HELD_OUT = HeldOut(tuple(_rows("moon", range(50, 54))), tuple(_rows("sun", range(50, 54))))


def _config(**values: Any) -> PretrainConfig:
    ready = {"learning_rate": 5e-3, "epochs": 2, "max_tokens": 48, "validate_every": 4, "precision": "float32"}
    return PretrainConfig.model_validate({**ready, "lora": {"r": 4}, **values})


def _train(folder: Path, *, mix: Mix | None = None, held_out: HeldOut = HELD_OUT, **values: Any) -> Any:
    run = Run.create(folder, {"run": {}})
    mix = mix or _mix()
    return run, pretrain.train(run, tiny_base(), mix, held_out, _config(**values), Silent())


def test_the_first_loss_is_that_of_transformers_over_all_tokens_of_the_step(tmp_path: Path) -> None:
    mix = _mix(replay=())
    run, _ = _train(tmp_path / "r", mix=mix, batch_size=1000, epochs=1)
    model = tiny_base().model
    total = tokens = 0.0
    for row in (row for pack in mix.packs for row in pack):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (len(row.ids) - 1)
        tokens += len(row.ids) - 1
    assert run.metrics()[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_documents_are_learned_to_the_last_step_and_only_the_best_wants_some_held_out(tmp_path: Path) -> None:
    none = HeldOut(())
    run, record = _train(tmp_path / "r", mix=_mix(replay=()), held_out=none, publish="last", keep_epochs=1)
    assert (record.published_step, record.best_step, record.best_loss) == (record.steps, None, None)
    kept = run.path("epochs", str(record.steps), "adapter/adapter_model.safetensors")
    assert kept.read_bytes() == run.path("adapter/adapter_model.safetensors").read_bytes()
    with pytest.raises(TrainError, match=r"no validation documents, .* publish what the last step leaves"):
        pretrain.rehearse(tiny_base(), _mix(), none, _config())


def test_documents_are_learned_and_general_text_is_looked_at(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", epochs=4)
    looks = [line for line in run.metrics() if "validation_loss" in line]
    assert looks[-1]["validation_loss"] < 0.8 * run.metrics()[0]["loss"]
    best = next(look for look in looks if look["step"] == record.best_step)
    assert best["validation_replay_loss"] == record.best_measures["replay_loss"] > record.best_loss
    assert record.skipped_lines == () and record.result == "adapter"
    _, without = _train(tmp_path / "s", mix=_mix(replay=()), held_out=HeldOut(HELD_OUT.rows))
    assert without.best_measures.keys() == {"token_accuracy"}


def test_a_training_that_is_interrupted_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, undisturbed = _train(tmp_path / "whole")
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save
    for stop in (1, undisturbed.steps // 2 + 1):

        def dies(run: Run, state: Any, *rest: Any, stop: int = stop) -> None:
            save(run, state, *rest)
            if state.step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(steps, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "cut")
    monkeypatch.setattr(steps, "save", save)
    cut, resumed = _train(tmp_path / "cut")
    names = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "metrics.jsonl")
    assert [name for name in names if cut.path(name).read_bytes() != whole.path(name).read_bytes()] == []
    assert resumed.best_measures == undisturbed.best_measures
    events = [json.loads(line) for line in cut.path("events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [1, undisturbed.steps // 2 + 1]


def test_micro_batches_change_nothing_beyond_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _train(tmp_path / "whole", epochs=1)
    monkeypatch.setattr(needs, "MICRO_TOKENS", 60)
    parts, _ = _train(tmp_path / "parts", epochs=1)
    for a, b in zip(whole.metrics(), parts.metrics(), strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), abs=1e-5)


def test_full_fine_tuning_learns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "save_model", lambda base, folder, weights: None)  # this base has no folder to copy
    run, record = _train(tmp_path / "r", full=True, learning_rate=1e-3)
    assert record.result == "model" and record.best_loss < run.metrics()[0]["loss"]


def test_auto_is_resolved_with_its_reasons() -> None:
    base = tiny_base()
    settled = pretrain.settle(resolve(PretrainConfig, {}, environment={}), base, range(40))
    config = settled.config
    assert (config.max_tokens, config.epochs, config.validate_every, config.batch_size) == (256, 4, 10, 4)
    assert config.learning_rate == auto.learning_rate(base.parameters, False)[0]
    assert "Muennighoff" in settled.origins["epochs"] and "at most 2,048" in settled.origins["max_tokens"]
    assert pretrain.longest_row(_config(max_tokens=9000), base) == 256


def test_settings_that_cannot_be_meant_are_refused() -> None:
    for flags, said in (
        ({"max_tokens": 8}, "fewer than 16 tokens"),
        ({"train_end_token": True}, "Documents hold no end of a reply"),
        ({"replay_share": 1.0}, "less than 1"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve(PretrainConfig, flags, environment={})


def test_what_training_would_refuse_is_refused_by_the_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    pretrain.rehearse(base, _mix(), HELD_OUT, _config())
    with pytest.raises(UsageError, match="above the size"):
        pretrain.rehearse(base, _mix(), HELD_OUT, _config(lora={"r": 500}))
    monkeypatch.setattr(memory, "available_bytes", lambda root: 1000)
    with pytest.raises(ResourceError, match="Lower --max-tokens or --lora-r"):
        pretrain.rehearse(base, _mix(), HELD_OUT, _config())


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(model: Any, rows: Any, means: bool = False) -> Learned:
        given = learned_tokens(model, rows, means)
        return given._replace(logprobs=given.logprobs * (math.nan if model.training else 1.0))

    monkeypatch.setattr(likelihood, "learned_tokens", poisoned)
    with pytest.raises(TrainError, match=r"step 1: loss nan.*--learning-rate"):
        _train(tmp_path / "r")
    assert not (tmp_path / "r/adapter").exists()
