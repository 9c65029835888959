"""Stopping on a grader's score: greedy answers, the best by them, patience, the same bytes after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import config, published
from weft.errors import UsageError
from weft.models import lora
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.runs import Run
from weft.settings import resolve
from weft.tasks import Task, infer
from weft.testing import tiny_base
from weft.train import sft, steps
from weft.train.judge import Judge
from weft.train.sft_config import SftConfig
from weft.train.steps import Trained


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _asked(count: int, start: int = 0) -> list[Conversation]:
    """Two short answers that go by the question's first letter: a tiny model learns them in a few steps."""
    return [
        Conversation((Message("user", f"{'ab'[n % 2]}{n}"), Message("assistant", "xy"[n % 2] * 2)), line=n + 1)
        for n in range(start, start + count)
    ]


TRAIN, HELD_OUT = _asked(24), _asked(10, start=60)
TASK: Task = infer(TRAIN)


def _train(folder: Path, **values: Any) -> tuple[Run, Trained]:
    settled = config(epochs=30, validate_every=6, learning_rate=3e-2, batch_size=8, **values)
    base = tiny_base()
    judge = Judge.of(base, TASK, TRAIN, HELD_OUT, settled)
    run = Run.create(folder, {"run": {}})
    return run, sft.train(run, base, TRAIN, HELD_OUT, settled, Silent(), judge=judge)


@torch.no_grad()
def _replies(run: Run, rows: list[Conversation]) -> list[str]:
    """Greedy replies with the published adapter: the definition, one prompt at a time, all computed anew per token."""
    base = tiny_base()
    lora.load_adapter(base.model, run.path("adapter"))
    found = []
    for row in rows:
        ids: list[int] = []
        while len(ids) < 12 and (not ids or ids[-1] not in base.chat.end_ids):
            logits = base.model(torch.tensor([[*base.chat.prompt(row.prompt), *ids]])).logits
            ids.append(int(logits[0, -1].argmax()))
        found.append(base.chat.decode(ids))
    return found


def test_the_best_by_a_score_is_published_and_the_record_says_so(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", stop_on="accuracy", patience=3)
    looks = [line for line in run.metrics() if "validation_loss" in line]
    scores = {line["step"]: line["validation_accuracy"] for line in looks}
    best = max(scores.values())
    assert best > min(scores.values())
    assert record.chosen_by == "accuracy" and record.best_measures["accuracy"] == best
    # The first of equals: later looks with the same score are no improvement.
    assert record.best_step == next(step for step, score in scores.items() if score == best)
    assert record.stopped_because == "validation accuracy has not improved for 3 looks"
    assert record.steps == record.best_step + 3 * 6
    assert record.best_loss == next(line["validation_loss"] for line in looks if line["step"] == record.best_step)
    right = [said.strip() == row.answer for said, row in zip(_replies(run, HELD_OUT), HELD_OUT, strict=True)]
    assert sum(right) / len(right) == pytest.approx(best)


def test_a_smallest_improvement_is_one_of_the_score(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", stop_on="accuracy", patience=3, min_improvement=2.0)
    assert record.steps == record.best_step + 3 * 6 and record.best_step == 6  # nothing gains as much again
    assert run.metrics()[-1]["step"] == record.steps


def test_a_score_is_measured_on_so_many_rows_and_the_loss_on_all(tmp_path: Path) -> None:
    few, _ = _train(tmp_path / "few", stop_on="accuracy", stop_rows=3, max_minutes=1e-9)
    all_rows, _ = _train(tmp_path / "all", stop_on="accuracy", max_minutes=1e-9)
    losses = [run.metrics()[-1]["validation_loss"] for run in (few, all_rows)]
    assert losses[0] == losses[1]
    base = tiny_base()
    judge = Judge.of(base, TASK, TRAIN, HELD_OUT, config(stop_on="accuracy", stop_rows=3))
    assert judge is not None and judge.rows == tuple(HELD_OUT[:3])


def test_a_run_that_stops_on_a_score_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"stop_on": "accuracy", "patience": 2, "lora": {"r": 4, "dropout": 0.1}, "train_tokens": "none"}
    whole, record = _train(tmp_path / "whole", **values)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save
    for cut in sorted({6, 8, min(record.best_step, record.steps - 2) + 1}):  # looks without gain come behind the last

        def dies(run: Run, state: Any, *rest: Any, cut: int = cut) -> None:
            save(run, state, *rest)
            if state.step == cut:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(steps, "save", dies)
            with pytest.raises(KeyboardInterrupt):
                _train(tmp_path / "cut", **values)
    cut_run, _ = _train(tmp_path / "cut", **values)
    assert published(cut_run) == published(whole) and cut_run.metrics() == whole.metrics()


def test_prompts_without_room_for_an_answer_count_as_wrong() -> None:
    base = tiny_base()
    long = Conversation((Message("user", "a" * 240), Message("assistant", "xx")))
    judge = Judge.of(base, TASK, TRAIN, [long], config(stop_on="accuracy"))
    assert judge is not None and judge.scores(base, config(stop_on="accuracy"))["accuracy"] == 0.0


def test_drawing_answers_leaves_the_base_learning_and_draws_nothing_at_random() -> None:
    base = tiny_base()
    base.model.train()
    judge = Judge.of(base, TASK, TRAIN, HELD_OUT, config(stop_on="accuracy"))
    before = torch.get_rng_state()
    assert judge is not None and judge.scores(base, config())
    assert base.model.training and torch.equal(torch.get_rng_state(), before)


def test_a_score_that_nothing_gives_is_refused_before_the_start() -> None:
    base, settled = tiny_base(), config(stop_on="f1")
    with pytest.raises(UsageError, match=r"--stop-on f1: no score of these answers, .* accuracy, exact_match"):
        sft.rehearse(base, TRAIN, HELD_OUT, settled, TASK)


def test_a_score_without_a_grader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stop-on accuracy: nothing here grades answers"):
        sft.train(Run.create(tmp_path / "r", {}), tiny_base(), TRAIN, HELD_OUT, config(stop_on="accuracy"), Silent())


def test_the_loss_is_what_training_stops_on_otherwise() -> None:
    assert resolve(SftConfig, {}, environment={}).config.stop_on == "loss"
    assert Judge.of(tiny_base(), TASK, TRAIN, HELD_OUT, config()) is None
