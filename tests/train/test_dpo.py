"""Preferences: log 2 at the start, transformers' own gradient, pairs told apart after it, the same bytes again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import logsigmoid

from weft.errors import ResourceError, TrainError, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models import lora, memory
from weft.progress import Silent
from weft.records import Message, Preference
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import auto, dpo, needs, publish, steps
from weft.train.batches import MICRO_TOKENS
from weft.train.dpo_config import DpoConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _pairs(count: int, start: int = 0) -> list[Preference]:
    """Asked the same, the polite reply is better, whatever the number."""
    return [
        Preference((Message("user", f"say {n}" + "!" * (n % 5)),), chosen=f"please {n}", rejected=f"no {n}", line=n + 1)
        for n in range(start, start + count)
    ]


def _config(**values: Any) -> DpoConfig:
    ready = {"learning_rate": 3e-3, "epochs": 2, "max_tokens": 256, "validate_every": 4, "batch_size": 4}
    return DpoConfig.model_validate({**ready, "precision": "float32", "lora": {"r": 4}, **values})


def _train(folder: Path, *, train: Any = None, validation: Any = None, **values: Any) -> Any:
    run = Run.create(folder, {"run": {}})
    train, validation = train or _pairs(16), _pairs(4, start=50) if validation is None else validation
    return run, dpo.train(run, tiny_base(), train, validation, _config(**values), Silent())


def _weights(run: Run) -> bytes:
    return run.path("adapter", "adapter_model.safetensors").read_bytes()


def _padded_logprobs(model: Any, base: Any, pair: Preference) -> torch.Tensor:
    """(2,): what a plain forward pass of transformers says of both replies."""
    found = []
    for text in (pair.chosen, pair.rejected):
        row = base.chat.example(pair.answered(text))
        ids = torch.tensor([[*row.ids, 0, 0, 0]])
        mask = torch.tensor([[1] * len(row.ids) + [0] * 3])
        logits = model(input_ids=ids, attention_mask=mask).logits[0, :-1].log_softmax(-1)
        each = logits.gather(-1, ids[0, 1:, None])[:, 0]
        found.append(each[torch.tensor([*row.learn[1:], False, False, False])].sum())
    return torch.stack(found)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_gradient_of_a_step_is_that_of_plain_transformers(loss: Any) -> None:
    config = _config(loss=loss, beta=0.3)
    base, again, reference = tiny_base(), tiny_base(), tiny_base(seed=1)
    pairs, _ = dpo.render(base, _pairs(6), 256)
    pairs = dpo.with_reference(reference, pairs, MICRO_TOKENS, config, Silent())
    (dpo.losses(dpo.reply_logprobs(base.model, pairs), pairs, config).mean()).backward()

    total = torch.zeros(())
    for pair, own in zip(_pairs(6), pairs, strict=True):
        with torch.no_grad():
            before = _padded_logprobs(reference.model, reference, pair)
        assert torch.allclose(before, torch.tensor(own.reference), rtol=1e-5)
        gain = _padded_logprobs(again.model, again, pair) - before
        if loss == "ipo":
            gain = gain / torch.tensor([sum(row.learn) for row in own.rows])
            total = total + (gain[0] - gain[1] - 1 / 0.6) ** 2
        else:
            total = total - logsigmoid(0.3 * (gain[0] - gain[1]))
    (total / 6).backward()
    ours = torch.cat([p.grad.flatten() for p in base.model.parameters() if p.grad is not None])
    theirs = torch.cat([p.grad.flatten() for p in again.model.parameters() if p.grad is not None])
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


def test_the_first_step_loses_log_2_and_held_out_pairs_are_told_apart_in_the_end(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", train=_pairs(60), validation=_pairs(20, start=70), batch_size=8)
    first = run.metrics()[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(first["reward_margin"]) <= 1e-4
    assert record.best_measures["reward_accuracy"] >= 0.9 and record.best_measures["reward_margin"] > 0
    looks = [line for line in run.metrics() if "validation_loss" in line]
    best = next(line for line in looks if line["step"] == record.best_step)
    assert best["validation_reward_accuracy"] == record.best_measures["reward_accuracy"]
    assert best["validation_loss"] == record.best_loss < math.log(2)
    # What was published is the best, and its reference is the base under the adapter.
    base, held_out = tiny_base(), _pairs(20, start=70)
    lora.load_adapter(base.model, run.path("adapter"))
    pairs, _ = dpo.render(base, held_out, 256)
    with lora.disabled(base.model):
        known = dpo.with_reference(base, pairs, MICRO_TOKENS, _config(), Silent())
    assert dpo._validation(base, known, MICRO_TOKENS, _config())["loss"] == pytest.approx(record.best_loss, abs=1e-5)


def test_the_first_loss_of_ipo_is_its_squared_target(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", loss="ipo", beta=0.5)
    assert run.metrics()[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert record.best_loss < 1.0


def test_full_fine_tuning_keeps_the_untouched_base_as_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "save_model", lambda base, folder, weights: None)  # this base has no folder to copy
    run, record = _train(tmp_path / "r", full=True, learning_rate=3e-4)
    assert run.metrics()[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert record.result == "model" and record.best_loss < math.log(2)


def test_micro_batches_change_nothing_beyond_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _train(tmp_path / "whole")
    monkeypatch.setattr(needs, "MICRO_TOKENS", 60)
    sizes = []
    monkeypatch.setattr(
        dpo, "learned_logprobs", lambda model, rows: sizes.append(len(rows)) or learned_logprobs(model, rows)
    )
    parts, _ = _train(tmp_path / "parts")
    assert set(sizes) == {2}  # a pair is never torn apart
    for a, b in zip(whole.metrics(), parts.metrics(), strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), abs=1e-5)


def test_training_again_from_any_checkpoint_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"lora": {"r": 4, "dropout": 0.2}, "lora_plus_ratio": 4}
    whole, undisturbed = _train(tmp_path / "whole", **shape)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save
    for stop in (1, 3, 6):

        def dies(run: Run, state: Any, *rest: Any, stop: int = stop) -> None:
            save(run, state, *rest)
            if state.step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(steps, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "cut", **shape)
    monkeypatch.setattr(steps, "save", save)
    cut, resumed = _train(tmp_path / "cut", **shape)
    assert _weights(cut) == _weights(whole)
    assert cut.metrics() == whole.metrics()
    assert resumed.best_measures == undisturbed.best_measures
    events = [json.loads(line) for line in cut.path("events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [1, 3, 6]


def test_the_rate_is_a_tenth_of_that_for_answers() -> None:
    base = tiny_base()
    settled = dpo.settle(resolve(DpoConfig, {}, environment={}), base, range(80))
    answers = auto.learning_rate(base.parameters, False)[0]
    assert settled.config.learning_rate == pytest.approx(answers / 10)
    assert settled.origins["learning_rate"].endswith("a tenth of it for preferences")


def test_pairs_that_do_not_fit_are_counted_by_their_line(tmp_path: Path) -> None:
    long = [Preference((Message("user", "go on"),), chosen="x", rejected="y" * 300, line=90)]
    _, record = _train(tmp_path / "r", train=[*_pairs(8), *long])
    assert record.skipped_lines == (90,) and record.skipped_validation_lines == ()


def test_validation_pairs_that_do_not_fit_are_counted_by_their_line_too(tmp_path: Path) -> None:
    long = [Preference((Message("user", "go on"),), chosen="x", rejected="y" * 300, line=90)]
    run, record = _train(tmp_path / "r", validation=[*_pairs(4, start=50), *long])
    assert record.skipped_validation_lines == (90,) and record.skipped_lines == ()
    told = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines() if '"warning"' in line]
    assert [event["message"] for event in told] == [
        "Left out of the validation part as longer than 256 tokens: 1 (line 90)."
    ]


def test_it_can_stop_on_the_share_of_pairs_that_are_told_apart(tmp_path: Path) -> None:
    run, record = _train(tmp_path / "r", stop_on="reward_accuracy", epochs=8, validate_every=1, patience=3)
    shares = [(line["validation_reward_accuracy"], line["step"]) for line in run.metrics() if "validation_loss" in line]
    best = max(share for share, _ in shares)
    assert record.chosen_by == "reward_accuracy" and record.best_measures["reward_accuracy"] == best
    assert record.best_step == next(step for share, step in shares if share == best)
    assert record.steps == record.best_step + 3 < 32
    assert record.stopped_because == "validation reward_accuracy has not improved for 3 looks"
    # The loss falls on where the share does not rise: it is another choice.
    _, by_loss = _train(tmp_path / "loss", epochs=8, validate_every=1, patience=3)
    assert by_loss.chosen_by == "loss" and by_loss.best_step > record.best_step
    with pytest.raises(ValidationError, match="'loss' or 'reward_accuracy'"):
        _config(stop_on="accuracy")


def test_what_training_would_refuse_is_refused_by_the_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    base, pairs = tiny_base(), _pairs(4)
    dpo.rehearse(base, pairs, pairs, _config())
    with pytest.raises(TrainError, match="none of the 4 pairs fits into 10 tokens"):
        dpo.rehearse(base, pairs, pairs, _config(max_tokens=10))
    with pytest.raises(TrainError, match="no validation pairs"):
        dpo.rehearse(base, pairs, [], _config())
    with pytest.raises(UsageError, match="above the size"):
        dpo.rehearse(base, pairs, pairs, _config(lora={"r": 500}))
    monkeypatch.setattr(memory, "available_bytes", lambda root: 1000)
    with pytest.raises(ResourceError, match="Lower --max-tokens or --lora-r"):
        dpo.rehearse(base, pairs, pairs, _config())


def test_pairs_too_are_learned_to_the_last_step_without_any_to_look_at(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", {"run": {}})
    config = _config(publish="last", keep_epochs=1)
    record = dpo.train(run, tiny_base(), _pairs(8), [], config, Silent())
    assert (record.published_step, record.best_step, record.curve["validation"]) == (record.steps, None, [])
    kept = run.path("epochs", str(record.steps), "adapter/adapter_model.safetensors")
    assert kept.read_bytes() == run.path("adapter/adapter_model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(model: Any, rows: Any) -> torch.Tensor:
        return learned_logprobs(model, rows) * (math.nan if model.training else 1.0)

    monkeypatch.setattr(dpo, "learned_logprobs", poisoned)
    with pytest.raises(TrainError, match=r"step 1: loss nan.*--learning-rate"):
        _train(tmp_path / "r")
    assert not (tmp_path / "r/adapter").exists()
