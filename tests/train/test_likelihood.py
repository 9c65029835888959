"""What steps and looks measure: the token accuracy of transformers' own logits; smoothing where it learns alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.train.small import config, examples, train
from weft.errors import SettingsError
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import crew, needs
from weft.train.dpo_config import DpoConfig
from weft.train.pretrain_config import PretrainConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _of_transformers(rows: int, start: int = 0, smoothing: float = 0.0) -> tuple[float, float]:
    """Mean loss and share of right tokens of the untrained base, one row at a time."""
    base = tiny_base()
    loss, right, count = 0.0, 0, 0
    for example in examples(rows, start):
        row = base.chat.example(example.messages)
        learned = torch.tensor(row.learn[1:])
        with torch.no_grad():
            logits = base.model(torch.tensor([row.ids])).logits[0, :-1][learned]
        targets = torch.tensor(row.ids[1:])[learned]
        loss += float(functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum"))
        right += int((logits.argmax(-1) == targets).sum())
        count += len(targets)
    return loss / count, right / count


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_and_a_look_say_what_transformers_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    monkeypatch.setattr(needs, "MICRO_TOKENS", 60)  # several parts of a step, whose counts add up
    # So small a rate that the look after the step still sees the untrained base.
    values = {"batch_size": 16, "epochs": 1, "learning_rate": 1e-9, "label_smoothing": smoothing}
    run, _ = train(tmp_path / "r", tiny_base(), **values)
    step, look = run.metrics()
    loss, accuracy = _of_transformers(16, smoothing=smoothing)
    assert step["loss"] == pytest.approx(loss, rel=1e-5) and step["token_accuracy"] == pytest.approx(accuracy)
    loss, accuracy = _of_transformers(4, start=50)  # never smoothed: looks with and without it can be compared
    assert look["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert look["validation_token_accuracy"] == pytest.approx(accuracy)


def test_several_hands_count_the_same_right_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = train(tmp_path / "one", epochs=1, label_smoothing=0.1)
    monkeypatch.setattr(crew.torch, "get_num_threads", lambda: 2)
    shared, _ = train(tmp_path / "two", epochs=1, label_smoothing=0.1)
    for one, other in zip(alone.metrics(), shared.metrics(), strict=True):
        name = "token_accuracy" if "loss" in one else "validation_token_accuracy"
        assert one[name] == pytest.approx(other[name])
        assert one.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=1e-5)


def test_learning_raises_the_token_accuracy(tmp_path: Path) -> None:
    run, record = train(tmp_path / "r", epochs=20, patience=99)
    steps = [line["token_accuracy"] for line in run.metrics() if "loss" in line]
    assert steps[0] < 0.3 < 0.5 < max(steps[-4:])
    assert record.best_measures.keys() == {"token_accuracy"}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_smoothing_outside_of_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match="label_smoothing"):
        resolve(type(config()), {"label_smoothing": share}, environment={})


def test_documents_can_be_smoothed_and_pairs_cannot() -> None:
    assert PretrainConfig(label_smoothing=0.1).label_smoothing == 0.1
    found: Any = DpoConfig.model_fields
    assert "label_smoothing" not in found
