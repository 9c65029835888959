"""Bases that are not of the compact family: the same engine, one row after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.generate.conftest import Served, alone, ask, prompts, save_random_adapter
from weft.models.load import load
from weft.models.lora_config import LoraConfig
from weft.testing import save_base


@pytest.mark.parametrize("kind", ["gpt2", "gemma"])
def test_rows_with_different_adapters_are_answered_as_if_alone(tmp_path: Path, served: Served, kind: Any) -> None:
    base = load(str(save_base(tmp_path / "base", kind)))
    save_random_adapter(base.model, tmp_path / "a", LoraConfig(r=4), (), 1)
    save_random_adapter(base.model, tmp_path / "b", LoraConfig(r=2, dora=True), (4, 5), 2)
    names = [None, "a", "b", "a", None]
    asked = list(zip(names, prompts(5, shared=40), strict=True))
    expected = [alone(base, prompt, 6, tmp_path / name if name else None)[0] for name, prompt in asked]
    before = dict(base.model.named_modules())
    engine = served.engine(base, lambda identity: tmp_path / identity, chunk=25)
    heard = [ask(engine, prompt, 6, name) for name, prompt in asked]
    assert [one.wait().ids for one in heard] == expected
    assert dict(base.model.named_modules()) == before
    assert all(one.cached == 0 for one in heard) and engine.counts().cached_bytes == 0
