"""The pretraining loop on a model small enough to learn in a second."""

from __future__ import annotations

import dataclasses
import json
import math
from random import Random

import pytest
import torch

from weft.errors import TrainError
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.train import checkpoint, from_scratch, schedules
from weft.train.from_scratch import Batch, FromScratchConfig, collate


def tiny(vocabulary: int = 32) -> Decoder:
    torch.manual_seed(5)
    shape = DecoderConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        rms_norm_eps=1e-6,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        rope=(("rope_theta", 10000.0), ("rope_type", "default")),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=True,
    )
    model = Decoder(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1)
    return model


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
        made.append(collate(rows))
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
    seen = sum(len(row.ids) for step in range(60) for batch in batches(step) for row in batch.rows)
    assert (result.step, result.tokens) == (60, seen)


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
            made[0].weights[3] = math.inf
        return made

    with pytest.raises(TrainError, match=r"step 3: loss nan.* Lower matrix_rate"):
        from_scratch.run(tiny(), poisoned, CONFIG, tmp_path, **QUIET)
    assert checkpoint.latest(tmp_path) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    from_scratch.run(tiny(), batches, CONFIG, tmp_path, stop_after=1, **QUIET)
    other = tiny(vocabulary=40)
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


def test_the_loss_and_its_gradient_are_those_of_transformers_over_padded_rows():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = tiny()
    names = {field.name for field in dataclasses.fields(model.config)} - {"architecture", "rope"}
    other = Qwen3ForCausalLM(Qwen3Config(**{name: getattr(model.config, name) for name in names}))
    other.load_state_dict(model.state_dict())
    rng = Random(3)
    stem = [rng.randrange(2, 32) for _ in range(20)]  # long enough to be computed once
    rows = [stem + [rng.randrange(2, 32) for _ in range(length)] for length in (9, 2, 5, 1)] + [[7, 8, 9]]
    weights = [[rng.choice((0.0, 0.2, 1.0, 2.5)) for _ in row] for row in rows]

    found = from_scratch.weighted_loss(model, collate(list(zip(rows, weights, strict=True))))
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    weight = torch.tensor([given + [0.0] * (width - len(given)) for given in weights])
    logprobs = other(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = -(logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1) * weight[:, 1:]).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    found.backward()
    expected.backward()
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert float((parameter.grad - theirs[name].grad).norm()) <= 1e-5 * float(theirs[name].grad.norm()), name


def test_collate_keeps_what_has_weight_and_never_the_first_token():
    batch = collate([([5, 6, 7], [9.0, 0.5, 0.0]), ([8, 9], [1.0, 2.0])])
    assert [row.learn for row in batch.rows] == [(False, True, False), (False, True)]
    assert batch.weights.tolist() == [0.5, 2.0] and batch.tokens == 5


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
