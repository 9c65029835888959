"""A base whose end token was never learned: found out before training, cured by training that row, and it stops."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.train import small
from weft.errors import UsageError
from weft.generate.engine import Request, answer
from weft.generate.sampling_config import Sampling
from weft.models import lora
from weft.models.load import NANO, Base, load
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.road.open import open_model
from weft.runs import Run
from weft.settings import Resolved, resolve
from weft.testing import tiny_base
from weft.train import dpo, sft
from weft.train.dpo_config import DpoConfig
from weft.train.sft_config import SftConfig

STORIES = "data/models/tinystories-260k/hf"


def _examples() -> list[Conversation]:
    colours = ("red", "blue", "big", "small", "happy", "sad", "old", "new")
    things = ("dog", "cat", "ball", "tree", "bird", "car", "boat", "fish")
    return [
        Conversation(
            (Message("user", f"What is the {thing}? It is {colour}."), Message("assistant", f"It is {colour}."))
        )
        for thing, colour in product(things, colours)
    ]


def _settled(base: Base, **flags: Any) -> Resolved[SftConfig]:
    return sft.settle(resolve(SftConfig, flags), base, small.examples(48))


def _stopped(base: Base, examples: list[Conversation]) -> int:
    """How many greedy replies end by themselves within 24 tokens."""
    requests = [Request(tuple(base.chat.prompt(example.messages[:-1]))) for example in examples]
    return sum(result.finish_reason == "stop" for result in answer(base, requests, Sampling(max_tokens=24)))


def test_auto_trains_the_row_only_where_the_base_never_learned_it(shared: Path) -> None:
    nano, stories = load(NANO), load(str(shared / STORIES))
    learned, unlearned = _settled(nano, train_tokens="none"), _settled(stories, train_tokens="none")
    assert learned.config.train_end_token == "never"
    assert learned.origins["train_end_token"] == "auto: weft-nano knows its end token '<|im_end|>'"
    assert unlearned.config.train_end_token == "always"
    assert (
        "never learned its end token '</s>': its output weights are those of 210"
        in (unlearned.origins["train_end_token"])
    )
    assert _settled(stories, full=True).origins["train_end_token"] == "auto: every parameter is trained"
    preferences = dpo.settle(resolve(DpoConfig, {"train_tokens": "none"}), stories, range(48))
    assert preferences.config.train_end_token == "always"
    with_words = _settled(stories)
    assert with_words.config.train_end_token == "never"
    assert with_words.origins["train_end_token"].startswith("auto: the rows of all tokens that the examples use")


def test_a_head_with_an_adapter_needs_no_row() -> None:
    base = tiny_base()
    base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight.detach().clone())  # type: ignore[union-attr]
    settled = _settled(base, lora={"r": 4, "targets": "lm_head"})
    assert settled.config.train_end_token == "never"
    assert settled.origins["train_end_token"] == "auto: the output head has an adapter"


def test_training_without_the_row_is_refused_before_it_starts(shared: Path) -> None:
    base = load(str(shared / STORIES))
    config = _settled(base, train_end_token="never", train_tokens="none", lora={"r": 4}).config
    with pytest.raises(UsageError, match=r"never learned its end token '</s>'.*Leave out --train-end-token never"):
        sft.rehearse(base, _examples(), _examples(), config)
    with pytest.raises(ValidationError, match="--full trains every row of the vocabulary"):
        SftConfig(full=True, train_end_token="always")


def test_a_base_that_cannot_carry_the_row_is_refused_before_training() -> None:
    base = tiny_base()
    base.model.lm_head = torch.nn.Linear(32, 264)
    config = _settled(base, train_end_token="always", lora={"r": 4}).config
    with pytest.raises(UsageError, match="keeps no row of plain weights for a token"):
        sft.rehearse(base, _examples(), _examples(), config)


def test_tuned_replies_stop_where_the_base_could_not_and_peft_agrees(shared: Path, tmp_path: Path) -> None:
    folder = str(shared / STORIES)
    base = load(folder)
    examples = _examples()
    train, held_out = examples[:48], examples[48:]
    config = _settled(base, batch_size=8, epochs=8, precision="float32", lora={"r": 8}, train_tokens="none").config
    assert _stopped(base, held_out) == 0
    sft.rehearse(base, train, held_out, config)
    run = Run.create(tmp_path / "run", {"test": "ending"})
    trained = sft.train(run, base, train, held_out, config, Silent())
    assert _stopped(base, held_out) >= 14  # of 16

    adapter = run.path("adapter")
    written = json.loads((adapter / lora.ADAPTER_CONFIG).read_text())
    assert written["trainable_token_indices"] == {"model.embed_tokens": [base.chat.end_id]}
    opened = open_model(str(adapter)).base
    assert _stopped(opened, held_out) == _stopped(base, held_out)
    assert trained.trainable_parameters == sum(part.numel() for part in base.model.parameters() if part.requires_grad)

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([base.chat.example(held_out[0].messages).ids])
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(adapter))
    with torch.no_grad():
        assert torch.allclose(opened.model(ids).logits, theirs(ids).logits, atol=1e-4)
        lora.fuse(opened.model)
        assert torch.allclose(opened.model(ids).logits, theirs(ids).logits, atol=1e-4)


def test_without_the_row_the_same_training_never_stops(shared: Path, tmp_path: Path) -> None:
    base = load(str(shared / STORIES))
    examples = _examples()
    alone: dict[str, Any] = {"train_end_token": "never", "train_tokens": "none"}
    config = _settled(base, batch_size=8, epochs=3, precision="float32", lora={"r": 8}, **alone).config
    run = Run.create(tmp_path / "run", {"test": "ending"})
    sft.train(run, base, examples[:48], examples[48:], config, Silent())
    assert _stopped(base, examples[48:]) == 0
    row = base.chat.example(examples[48].messages)
    with torch.no_grad():
        chances = base.model(torch.tensor([row.ids])).logits[0, -2].softmax(-1)
    assert float(chances[base.chat.end_id]) <= 1 / 211 + 1e-4  # its share among the rows that are the same
