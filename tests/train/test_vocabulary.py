"""Rows of the vocabulary that learn beside an adapter: which, at what rate, and what `auto` means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.train import small
from weft.errors import UsageError
from weft.models import lora
from weft.models.token_rows import tables_with_rows
from weft.progress import Silent
from weft.records import Conversation, Message, Tokens
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import auto, dpo, sft, vocabulary
from weft.train.dpo_config import DpoConfig
from weft.train.sft_config import SftConfig

EXAMPLES = [
    Conversation((Message("user", f"say {word}"), Message("assistant", word)), line=n)
    for n, word in enumerate(("ab", "cab", "bad", "dab", "cad", "dad", "bac", "bcd"), 1)
]


def _config(base: Any, **flags: Any) -> SftConfig:
    return sft.settle(
        resolve(SftConfig, {"lora": {"r": 4}, "epochs": 2, **flags}, environment={}), base, small.examples(6)
    ).config


def test_auto_means_the_tokens_seen_for_small_bases_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    settled = sft.settle(resolve(SftConfig, {}, environment={}), base, small.examples(6))
    assert settled.config.train_tokens == "seen" and "under 50,000,000" in settled.origins["train_tokens"]
    assert dpo.settle(resolve(DpoConfig, {}, environment={}), base, range(6)).config.train_tokens == "seen"
    assert _config(base, full=True).train_tokens == "none"
    monkeypatch.setattr(auto, "SMALL", base.parameters)
    large = sft.settle(resolve(SftConfig, {}, environment={}), base, small.examples(6))
    assert large.config.train_tokens == "none" and f"{base.parameters:,} or more" in large.origins["train_tokens"]
    monkeypatch.undo()
    base.model.lm_head = torch.nn.Linear(32, 264)  # its bias cannot be carried
    assert _config(base).train_tokens == "none"


def test_the_rows_of_the_examples_tokens_learn_at_a_quarter_of_the_rate_and_no_others(tmp_path: Path) -> None:
    base = tiny_base()
    config = _config(base)
    seen = {token for example in EXAMPLES[:6] for token in base.chat.example(example.messages).ids}
    before = base.model.get_input_embeddings().weight.detach().clone()
    run = Run.create(tmp_path / "run", {"test": "vocabulary"})
    record = sft.train(run, base, EXAMPLES[:6], EXAMPLES[6:], config, Silent())
    (table,) = {id(module.rows): module for module in tables_with_rows(base.model).values()}.values()
    assert set(table.tokens) == seen
    assert record.trainable_parameters == lora.trainable_count(base.model) > table.rows.numel()
    assert not torch.equal(table.rows, before[list(table.tokens)])
    lora.fuse(base.model)
    after = base.model.get_input_embeddings().weight.detach()
    others = [token for token in range(len(before)) if token not in seen]
    assert torch.equal(after[others], before[others])


def test_which_tokens_learn_goes_by_the_settings() -> None:
    base = tiny_base()
    rows = [Tokens((9, 4, 4), (False, True, True)), Tokens((4, 250), (False, True))]
    assert vocabulary.tokens_to_train(base, _config(base), rows) == (4, 9, 250)
    none = _config(base, train_tokens="none")
    assert vocabulary.tokens_to_train(base, none, rows) == ()
    end = _config(base, train_tokens="none", train_end_token="always")
    assert vocabulary.tokens_to_train(base, end, rows) == (base.chat.end_id,)


def test_rows_that_cannot_learn_are_refused_before_training() -> None:
    with pytest.raises(ValidationError, match="--full trains every row of the vocabulary"):
        SftConfig(full=True, train_tokens="seen")
    base = tiny_base()
    base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight.detach().clone())
    config = _config(base, train_tokens="seen", lora={"r": 4, "targets": "lm_head"})
    with pytest.raises(UsageError, match=r"names the output head: its rows learn already\. Leave out --train-tokens"):
        sft.rehearse(base, EXAMPLES[:6], EXAMPLES[6:], config)
    base.model.lm_head = torch.nn.Linear(32, 264)
    with pytest.raises(UsageError, match="keeps no row of plain weights"):
        sft.rehearse(base, EXAMPLES[:6], EXAMPLES[6:], _config(base, train_tokens="seen"))
