"""Epochs that are kept: what was learned by then and its measures, whole or absent, the same after any interruption."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import examples, published, train
from weft.errors import ResourceError, TrainError
from weft.forest.logprobs import learned_tokens
from weft.models import lora
from weft.runs import Run
from weft.testing import tiny_base
from weft.train import steps


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _kept(run: Run) -> list[str]:
    return sorted(path.name for path in run.path("epochs").iterdir())


def _metrics(run: Run, step: int) -> dict[str, Any]:
    return json.loads(run.path("epochs", str(step), "metrics.json").read_text())


def test_nothing_is_kept_unless_asked_for_and_the_result_is_the_same(tmp_path: Path) -> None:
    without, _ = train(tmp_path / "without")
    kept, _ = train(tmp_path / "with", keep_epochs=5)
    assert not without.has("epochs")
    assert _kept(kept) == ["4", "8"]
    assert (
        without.path("adapter/adapter_model.safetensors").read_bytes()
        == kept.path("adapter/adapter_model.safetensors").read_bytes()
    )


def test_an_epochs_adapter_gives_the_losses_that_its_metrics_say(tmp_path: Path) -> None:
    # Looks come every 3 steps otherwise, so that both ends of an epoch are looked at for their own sake.
    run, record = train(tmp_path / "r", keep_epochs=2, validate_every=3)
    for epoch, step in enumerate((4, 8), start=1):
        base = tiny_base()
        lora.load_adapter(base.model, run.path("epochs", str(step), "adapter"))
        rows = [base.chat.example(example.messages) for example in examples(4, start=50)]
        with torch.no_grad():
            given = learned_tokens(base.model, rows)
        said = _metrics(run, step)
        assert (said["step"], said["epoch"]) == (step, epoch)
        assert said["validation_loss"] == pytest.approx(-float(given.logprobs.mean()), abs=1e-5)
        assert said["validation_token_accuracy"] == pytest.approx(float(given.right.float().mean()), abs=1e-6)
        learned = next(line for line in run.metrics() if line["step"] == step and "loss" in line)
        assert (said["loss"], said["token_accuracy"]) == (learned["loss"], learned["token_accuracy"])
    assert [step for step, _ in record.curve["validation"]] == [3, 4, 6, 8]


def test_the_newest_are_kept_by_number_and_not_by_name(tmp_path: Path) -> None:
    run, _ = train(tmp_path / "r", epochs=12, rows=4, keep_epochs=2, patience=99)
    assert _kept(run) == ["11", "12"]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_kill_anywhere_leaves_epochs_that_come_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    whole, _ = train(tmp_path / "whole", keep_epochs=1)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0 if cut % 2 else 15.0)
    rename, seen = os.rename, 0

    def dies(source: Any, target: Any, **named: Any) -> None:
        nonlocal seen
        seen += "epochs" in str(target)
        if seen == cut:
            raise KeyboardInterrupt
        rename(source, target, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", dies)
        try:
            train(tmp_path / "cut", keep_epochs=1)
        except KeyboardInterrupt:
            pass
        else:
            assert cut > 5  # so many renames publish two epochs and drop one
    run, _ = train(tmp_path / "cut", keep_epochs=1)
    assert _kept(run) == ["8"]
    assert published(run) == published(whole) and run.metrics() == whole.metrics()


def test_a_full_disk_is_explained_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(self: Path, *args: Any, **named: Any) -> int:
        if self.name == "metrics.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            train(tmp_path / "r", keep_epochs=1)
    run, _ = train(tmp_path / "r", keep_epochs=1)
    assert _kept(run) == ["8"]


def test_parameters_that_are_not_finite_are_no_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: Any, **__: Any) -> float:
        return float("nan")

    monkeypatch.setattr(steps, "rate", bad)
    monkeypatch.setattr(steps.math, "isfinite", lambda _: True)
    with pytest.raises(TrainError, match="non-finite numbers; nothing is published"):
        train(tmp_path / "r", keep_epochs=1)
    assert not (tmp_path / "r/epochs").exists()


def test_full_fine_tuning_keeps_whole_models(tmp_path: Path, tiny_folder: Path) -> None:
    run, _ = train(tmp_path / "r", tiny_folder, full=True, learning_rate=1e-3, keep_epochs=1)
    assert {path.name for path in run.path("epochs/8/model").iterdir()} >= {"model.safetensors", "config.json"}
