"""Supervised fine-tuning: transformers' own gradient, the best is what is published, failures are failures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from weft.errors import TrainError, UsageError
from weft.forest.logprobs import Learned, learned_logprobs, learned_tokens
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import auto, likelihood, needs, sft, steps
from weft.train.batches import micro_batches
from weft.train.sft_config import SftConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _examples(count: int, answer: str = "{n}", start: int = 0) -> list[Conversation]:
    return [
        Conversation(
            (Message("user", f"say {n}" + "!" * (n % 5)), Message("assistant", answer.format(n=n))), line=n + 1
        )
        for n in range(start, start + count)
    ]


def _config(**values: Any) -> SftConfig:
    ready = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 256, "validate_every": 2, "batch_size": 4}
    return SftConfig.model_validate({**ready, "precision": "float32", "lora": {"r": 4}, **values})


def _train(folder: Path, *, kind: Any = "llama", train: Any = None, validation: Any = None, **values: Any) -> Any:
    run = Run.create(folder, {"run": {}})
    train, validation = train or _examples(16), _examples(4, start=50) if validation is None else validation
    return run, sft.train(run, tiny_base(kind), train, validation, _config(**values), Silent())


def _weights(run: Run) -> bytes:
    return run.path("adapter", "adapter_model.safetensors").read_bytes()


def test_the_gradient_of_a_step_is_that_of_transformers_own_loss() -> None:
    base, again = tiny_base(), tiny_base()
    rows = [base.chat.example(example.messages) for example in _examples(8)]
    learned = sum(sum(row.learn) for row in rows)
    for part in micro_batches(base.model, rows, 10**6):
        (-learned_logprobs(base.model, part).sum() / learned).backward()

    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    learn = torch.tensor([[*row.learn, *[False] * (width - len(row.ids))] for row in rows])
    labels = torch.where(learn, ids, -100)
    again.model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    for (name, ours), theirs in zip(base.model.named_parameters(), again.model.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4), name


def test_the_first_training_loss_of_a_run_is_transformers_own(tmp_path: Path) -> None:
    examples = _examples(6)
    run, _ = _train(tmp_path / "r", train=examples, batch_size=6, epochs=1)
    base = tiny_base()
    rows = [base.chat.example(example.messages) for example in examples]
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            loss = base.model(ids, labels=torch.where(torch.tensor([row.learn]), ids, -100)).loss
        total += float(loss) * sum(row.learn)
    assert run.metrics()[0]["loss"] == pytest.approx(total / sum(sum(row.learn) for row in rows), abs=1e-5)


def test_micro_batches_change_nothing_beyond_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _train(tmp_path / "whole")
    monkeypatch.setattr(needs, "MICRO_TOKENS", 60)
    parts, _ = _train(tmp_path / "parts")
    for a, b in zip(whole.metrics(), parts.metrics(), strict=True):
        assert a.keys() == b.keys()
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), abs=1e-5)
    for key, tensor in load_file(whole.path("adapter/adapter_model.safetensors")).items():
        assert torch.allclose(tensor, load_file(parts.path("adapter/adapter_model.safetensors"))[key], atol=1e-3), key


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_same_seed_gives_the_same_bytes_also_with_dropout(tmp_path: Path, kind: Any) -> None:
    shape = {"r": 4, "dropout": 0.2}
    first, one = _train(tmp_path / "a", kind=kind, lora=shape)
    torch.rand(7)  # whatever else has drawn from the global generator
    second, two = _train(tmp_path / "b", kind=kind, lora=shape)
    assert _weights(first) == _weights(second)
    assert (one.best_loss, one.curve) == (two.best_loss, two.curve)
    third, _ = _train(tmp_path / "c", kind=kind, lora=shape, seed=1)
    assert _weights(first) != _weights(third)


def test_training_again_from_any_checkpoint_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, undisturbed = _train(tmp_path / "whole", lora={"r": 4, "dropout": 0.2})
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save, stops = steps.save, iter([1, 3, 6])

    for stop in stops:

        def dies(run: Run, state: Any, *rest: Any, stop: int = stop) -> None:
            save(run, state, *rest)
            if state.step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(steps, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "cut", lora={"r": 4, "dropout": 0.2})
    monkeypatch.setattr(steps, "save", save)
    cut, resumed = _train(tmp_path / "cut", lora={"r": 4, "dropout": 0.2})
    assert _weights(cut) == _weights(whole)
    # JSON turns pairs into lists.
    assert json.loads(json.dumps(resumed.curve)) == json.loads(json.dumps(undisturbed.curve))
    assert [line["step"] for line in cut.metrics() if "loss" in line] == list(range(1, 9))
    assert cut.metrics() == whole.metrics()
    events = [json.loads(line) for line in cut.path("events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [1, 3, 6]


def test_early_stopping_publishes_the_best_and_not_the_last(tmp_path: Path) -> None:
    # The held-out answers are other texts: learning these only ever makes them less likely in the end.
    held_out = _examples(4, answer="no, never {n}", start=50)
    run, record = _train(
        tmp_path / "r", validation=held_out, epochs=40, patience=3, learning_rate=3e-2, validate_every=1
    )
    losses = dict(record.curve["validation"])
    assert record.steps < 160 and "has not improved for 3 looks" in record.stopped_because
    assert record.best_loss == min(losses.values()) == losses[record.best_step]
    assert record.steps == record.best_step + 3
    base = tiny_base()
    from weft.models import lora

    lora.load_adapter(base.model, run.path("adapter"))
    rows = [base.chat.example(example.messages) for example in held_out]
    with torch.no_grad():
        assert -float(learned_logprobs(base.model, rows).mean()) == pytest.approx(record.best_loss, abs=1e-5)


def test_the_last_step_is_published_where_that_is_wanted_and_nothing_stops_early(tmp_path: Path) -> None:
    held_out = _examples(4, answer="no, never {n}", start=50)
    values: dict[str, Any] = {"epochs": 8, "validation": held_out, "patience": 1}
    run, record = _train(tmp_path / "last", publish="last", **values)
    assert (record.steps, record.published_step) == (32, 32)
    assert record.best_step < 32 and record.best_loss == min(loss for _, loss in record.curve["validation"])
    untold, alone = _train(tmp_path / "alone", publish="last", epochs=8, validation=[])
    assert _weights(untold) == _weights(run)  # looking changes nothing
    assert (alone.published_step, alone.best_step, alone.best_loss, alone.curve["validation"]) == (32, None, None, [])
    assert not any("validation_loss" in line for line in untold.metrics())
    best, chosen = _train(tmp_path / "best", **values)
    assert chosen.published_step == chosen.best_step < chosen.steps < 32 and _weights(best) != _weights(run)


def test_examples_that_are_too_long_are_counted_by_their_line(tmp_path: Path) -> None:
    train = [*_examples(8), *_examples(2, answer="x" * 300, start=8)]
    _, record = _train(tmp_path / "r", train=train)
    assert record.skipped_lines == (9, 10)
    # More than the base's context cannot be asked for: such rows would be read without their positions.
    _, record = _train(tmp_path / "more", train=train, max_tokens=5000, kind="gpt2")
    assert record.skipped_lines == (9, 10) and record.skipped_validation_lines == ()


def test_validation_examples_that_are_too_long_are_counted_and_said_too_and_in_the_events_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    train = [*_examples(8), *_examples(1, answer="x" * 300, start=8)]
    validation = [*_examples(4, start=50), *_examples(12, answer="x" * 300, start=60)]
    both = [
        "Left out of the training part as longer than 256 tokens: 1 (line 9).",
        "Left out of the validation part as longer than 256 tokens: "
        "12 (lines 61, 62, 63, 64, 65, 66, 67, 68, 69, 70 …).",
    ]

    class Heard(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text.strip())

    for goes_on in (False, True):
        run, heard = Run.create(tmp_path / "r", {"run": {}}), Heard()
        record = sft.train(run, tiny_base(), train, validation, _config(), heard)
        assert (record.skipped_lines, record.skipped_validation_lines) == ((9,), tuple(range(61, 73)))
        assert [told for told in heard.said if "Left out" in told] == both, goes_on
        events = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
        assert [event["message"] for event in events if event["event"] == "warning"] == both


def test_nothing_to_learn_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="none of the 16 examples leaves a token to learn within 10 tokens"):
        _train(tmp_path / "a", max_tokens=10)
    with pytest.raises(TrainError, match="no validation examples"):
        _train(tmp_path / "b", validation=[])


def test_an_adapter_that_did_not_change_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "rate", lambda *a, **k: 0.0)
    with pytest.raises(TrainError, match="training changed nothing"):
        _train(tmp_path / "r")
    assert not (tmp_path / "r/adapter").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step_and_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    calls = iter(range(1000))

    def poisoned(model: Any, rows: Any, means: bool = False) -> Learned:
        given = learned_tokens(model, rows, means)
        return given._replace(logprobs=given.logprobs * (bad if next(calls) == 2 else 1.0))

    monkeypatch.setattr(likelihood, "learned_tokens", poisoned)
    with pytest.raises(TrainError, match=r"step 3: loss .*(nan|inf).*--learning-rate"):
        _train(tmp_path / "r", validate_every=100)
    assert not (tmp_path / "r/adapter").exists()
    assert [line["step"] for line in Run.open(tmp_path / "r").metrics()] == [1, 2]


def test_a_validation_loss_that_is_not_finite_is_a_failure_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(model: Any, rows: Any, means: bool = False) -> Learned:
        given = learned_tokens(model, rows, means)
        return given._replace(logprobs=given.logprobs * (1.0 if model.training else math.nan))

    monkeypatch.setattr(likelihood, "learned_tokens", poisoned)
    with pytest.raises(TrainError, match="step 2: validation loss nan"):
        _train(tmp_path / "r")


def test_auto_is_settled_and_says_from_what() -> None:
    base = tiny_base()
    settled = sft.settle(resolve(SftConfig, {}, environment={}), base, _examples(80))
    assert settled.config.epochs == auto.epochs(80)[0]
    assert settled.config.learning_rate == auto.learning_rate(base.parameters, False)[0]
    assert (settled.config.validate_every, settled.config.max_tokens) == (5, 256)
    assert settled.origins["learning_rate"].startswith("auto: LoRA on ")
    assert settled.origins["seed"] == "default"
    full = sft.settle(resolve(SftConfig, {"full": True, "epochs": 3}, environment={}), base, _examples(80))
    assert full.config.learning_rate == auto.learning_rate(base.parameters, True)[0] < settled.config.learning_rate
    assert (full.config.epochs, full.origins["epochs"]) == (3, "flag")


def test_what_training_would_refuse_is_refused_by_the_rehearsal() -> None:
    base, rows = tiny_base(), _examples(4)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    sft.rehearse(base, rows, rows, _config())
    assert before.keys() == base.model.state_dict().keys()
    with pytest.raises(UsageError, match="above the size"):
        sft.rehearse(base, rows, rows, _config(lora={"r": 500}))
    with pytest.raises(UsageError, match="Did you mean 'q_proj'"):
        sft.rehearse(base, rows, rows, _config(lora={"targets": ["q_prog"]}))
    with pytest.raises(TrainError, match="within 10 tokens"):
        sft.rehearse(base, rows, rows, _config(max_tokens=10))
