"""The pretraining loop on a model small enough to learn in a second."""

from __future__ import annotations

import json
import math
from random import Random

import pytest
import torch
from torch import nn

from weft.errors import TrainError
from weft.train import checkpoint, from_scratch, schedules
from weft.train.from_scratch import Batch, FromScratchConfig, collate


def tiny():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config)


def batches(step: int) -> list[Batch]:
    """Rows that repeat a random pair: learnable, and a function of the step."""
    made = []
    for part in range(2):
        rng = Random(f"{step}/{part}")
        rows = []
        for _ in range(4):
            pair = [rng.randrange(2, 32), rng.randrange(2, 32)]
            length = rng.randrange(8, 17)
            rows.append(((pair * 8)[:length], [1.0] * length))
        made.append(collate(rows, 16, 0))
    return made


CONFIG = FromScratchConfig(
    steps=24, warmup_steps=4, decay_steps=6, matrix_rate=0.02, other_rate=0.02, log_seconds=1e9, checkpoint_seconds=1e9
)
QUIET = {"report": lambda line: None}


def weights_of(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_the_loss_falls_and_the_log_says_so(tmp_path):
    model = tiny()
    lines = []
    config = CONFIG.model_copy(update={"log_seconds": 0.0, "steps": 60})
    result = from_scratch.run(model, batches, config, tmp_path, report=lines.append)
    losses = [json.loads(x)["loss"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == len(lines) == 60
    assert losses[0] == pytest.approx(math.log(32), abs=0.3)
    assert losses[-1] < 0.6 * losses[0]
    assert (result.step, result.tokens) == (60, 60 * 2 * 4 * 16)


def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path):
    whole, halved = tiny(), tiny()
    from_scratch.run(whole, batches, CONFIG, tmp_path / "whole", **QUIET)
    from_scratch.run(halved, batches, CONFIG, tmp_path / "halved", stop_after=11, **QUIET)
    again = tiny()
    torch.manual_seed(999)
    result = from_scratch.run(again, batches, CONFIG, tmp_path / "halved", **QUIET)
    assert result.step == 24
    expected = weights_of(whole)
    assert all(torch.equal(p, expected[n]) for n, p in again.named_parameters())
    assert any(not torch.equal(p, expected[n]) for n, p in halved.named_parameters())


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_seconds": 0.0, "keep": 3})
    from_scratch.run(tiny(), batches, config, tmp_path / "a", stop_after=6, **QUIET)
    newest = checkpoint.latest(tmp_path / "a")
    (newest / checkpoint.TENSORS).write_bytes(b"x")
    again = tiny()
    lines: list[str] = []
    from_scratch.run(again, batches, config, tmp_path / "a", report=lines.append)
    assert "passed over" in lines[0] and "step-00000006" in lines[0]
    whole = tiny()
    from_scratch.run(whole, batches, config, tmp_path / "b", **QUIET)
    expected = weights_of(whole)
    assert all(torch.equal(p, expected[n]) for n, p in again.named_parameters())


def test_a_finished_run_is_left_as_it_is(tmp_path):
    model = tiny()
    from_scratch.run(model, batches, CONFIG, tmp_path, stop_after=None, **QUIET)
    expected = weights_of(model)
    again = tiny()
    assert from_scratch.run(again, batches, CONFIG, tmp_path, **QUIET).step == 24
    assert all(torch.equal(p, expected[n]) for n, p in again.named_parameters())


def test_a_loss_that_is_not_finite_is_a_failure(tmp_path):
    def poisoned(step):
        made = batches(step)
        if step == 3:
            made[0].weights[0, 3] = math.inf
        return made

    with pytest.raises(TrainError, match=r"step 3: loss nan.* Lower matrix_rate"):
        from_scratch.run(tiny(), poisoned, CONFIG, tmp_path, **QUIET)
    assert checkpoint.latest(tmp_path) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    from_scratch.run(tiny(), batches, CONFIG, tmp_path, stop_after=1, **QUIET)
    other = tiny()
    other.resize_token_embeddings(40)
    with pytest.raises(TrainError, match="holds another model"):
        from_scratch.run(other, batches, CONFIG, tmp_path, **QUIET)


def test_watch_is_asked_at_each_checkpoint_in_eval_mode(tmp_path):
    seen = []

    def watch(model, step):
        seen.append((step, model.training))
        return {"x": 0.5}

    from_scratch.run(
        tiny(),
        batches,
        CONFIG.model_copy(update={"steps": 2, "checkpoint_seconds": 0.0}),
        tmp_path,
        watch=watch,
        **QUIET,
    )
    assert seen == [(1, False), (2, False)]


def test_weighted_loss_is_that_of_the_formula():
    torch.manual_seed(1)
    hidden, head = torch.randn(2, 5, 8), nn.Linear(8, 11, bias=False)
    batch = collate([([1, 2, 3, 4, 5], [9.0, 1.0, 0.0, 0.5, 1.0]), ([6, 7, 8], [9.0, 0.0, 2.0])], 5, 0)
    logprobs = head(hidden).log_softmax(-1)
    expected = sum(
        -float(batch.weights[b, t]) * logprobs[b, t - 1, batch.ids[b, t]] for b in range(2) for t in range(1, 5)
    )
    assert torch.allclose(from_scratch.weighted_loss(hidden, head, batch, chunk=2), expected)


def test_collate_pads_on_the_right_without_weight():
    batch = collate([([5, 6], [1.0, 1.0])], 4, 0)
    assert batch.ids.tolist() == [[5, 6, 0, 0]] and batch.weights.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_muon_has_the_matrices_and_adamw_the_rest_without_decay_of_norms():
    model = tiny()
    muon, adam = from_scratch.optimizers(model, CONFIG)
    names = {id(p): n for n, p in model.named_parameters()}
    matrices = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert all("layers" in n and "proj" in n for n in matrices)
    embedded, norms = ([names[id(p)] for p in g["params"]] for g in adam.param_groups)
    assert embedded == ["model.embed_tokens.weight"]
    assert all("norm" in n for n in norms) and adam.param_groups[1]["weight_decay"] == 0.0
    assert len(matrices) + len(embedded) + len(norms) == len(names)


def test_the_length_may_be_decided_late_with_wsd():
    long, short = CONFIG.model_copy(update={"steps": 1000}), CONFIG
    for step in range(CONFIG.steps - CONFIG.decay_steps):
        a, b = (
            schedules.rate(c.schedule, step, c.steps, warmup=c.warmup_steps, decay=c.decay_steps) for c in (long, short)
        )
        assert a == b
