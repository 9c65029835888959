"""Which tokens a base never learned: real bases, and tables made to show each sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from weft.models.end_token import never_learned
from weft.models.load import NANO, load
from weft.testing import tiny_model


def test_the_embedded_base_learned_all_its_control_tokens() -> None:
    base = load(NANO)
    assert [never_learned(base.model, token) for token in range(6141, 6144)] == ["", "", ""]
    assert base.chat.end_id == 6143


def test_a_base_that_never_saw_its_end_token_is_found_out(shared: Path) -> None:
    base = load(str(shared / "data/models/tinystories-260k/hf"))
    unknown, beginning, end = range(3)
    assert base.chat.end_id == end
    assert never_learned(base.model, end).startswith("its output weights are those of 210 other tokens")
    assert never_learned(base.model, unknown)
    assert not never_learned(base.model, beginning)  # it opens every story


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma"])
def test_no_token_of_a_random_model_is_held_for_another(kind: Any) -> None:
    model = tiny_model(kind)
    assert not any(never_learned(model, token) for token in range(264))


def test_each_sign_is_said_in_words() -> None:
    model = tiny_model()
    table = model.lm_head.weight
    with torch.no_grad():
        table[10] = 0
        table[20] = table[21]
        table[30] = table.mean(0)
        table[40:45] = table[40] + 1e-4 * torch.randn(5, 32)
    assert never_learned(model, 10) == "its output weights are all but zero"
    assert never_learned(model, 20) == (
        "its output weights are those of another token, as of tokens that pretraining never saw"
    )
    assert never_learned(model, 30).startswith("its output weights are the mean of all tokens'")
    assert never_learned(model, 44).startswith("its output weights are those of 4 other tokens")
    assert never_learned(model.to(torch.bfloat16), 20) and not never_learned(model, 50)


def test_a_model_without_an_output_table_says_nothing() -> None:
    assert never_learned(torch.nn.Linear(2, 2), 0) == ""
