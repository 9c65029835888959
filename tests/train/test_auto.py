"""What `auto` means for dropout: by method and by the size of the base, and a number that is given stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.train import small
from weft.records import Conversation, Message
from weft.settings import Resolved, resolve
from weft.testing import tiny_base
from weft.train import auto, dpo, pretrain, sft
from weft.train.dpo_config import DpoConfig
from weft.train.pretrain_config import PretrainConfig
from weft.train.sft_config import SftConfig

LABELS = [
    Conversation((Message("user", f"say {n}"), Message("assistant", ("yes", "no")[n % 2])), line=n + 1)
    for n in range(24)
]


def _settled(examples: Sequence[Conversation] = LABELS, **flags: Any) -> Resolved[SftConfig]:
    return sft.settle(resolve(SftConfig, flags, environment={}), tiny_base(), examples)


def test_small_bases_drop_a_tenth_of_the_adapters_inputs_while_they_learn_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = _settled(lora={"r": 4})
    assert given.config.lora.dropout == 0.1 and given.config.lora.r == 4
    assert given.origins["lora"].startswith("flag, dropout auto:") and "under 50,000,000" in given.origins["lora"]
    other = _settled(small.examples(24))
    assert other.config.lora.dropout == 0.0 and other.origins["lora"].endswith(
        "dropout auto: the answers are no labels"
    )
    monkeypatch.setattr(auto, "SMALL", 10)
    large = _settled()
    assert large.config.lora.dropout == 0.0 and "10 or more" in large.origins["lora"]


def test_a_dropout_that_is_given_stays_and_other_methods_have_none() -> None:
    given = _settled(lora={"dropout": 0.0})
    assert given.config.lora.dropout == 0.0 and given.origins["lora"] == "flag"
    base = tiny_base()
    pairs = dpo.settle(resolve(DpoConfig, {}, environment={}), base, range(6))
    documents = pretrain.settle(resolve(PretrainConfig, {}, environment={}), base, range(6))
    for settled in (pairs, documents):
        assert settled.config.lora.dropout == 0.0 and "none with this method" in settled.origins["lora"]
