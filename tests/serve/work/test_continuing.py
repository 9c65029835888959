"""A job that goes on from a tuned model: both adapters as one do what the one on top of the other does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from weft.errors import UsageError
from weft.models import lora
from weft.models.lora_config import LoraConfig
from weft.serve.work.continuing import go_on_from, join
from weft.testing import tiny_base

IDS = torch.tensor([[65, 66, 67, 257, 90]])


def _learned(base: Any, config: LoraConfig, seed: int, tokens: tuple[int, ...], folder: Path) -> Path:
    """An adapter that says something, saved."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.wrap(base.model, config, seed, tokens=tokens):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    lora.save_adapter(base.model, folder, base_name="tiny", config=config)
    return folder


def _logits(base: Any) -> torch.Tensor:
    with torch.no_grad():
        out = base.model(IDS)
    return out.logits if hasattr(out, "logits") else out


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_two_adapters_as_one_equal_one_on_top_of_the_other(tmp_path: Path, kind: Any) -> None:
    first = LoraConfig(r=3, alpha=5.0, targets=("c_attn",) if kind == "gpt2" else ("q_proj", "v_proj"))
    second = LoraConfig(r=4, alpha=8.0, rslora=True)
    start = _learned(tiny_base(kind), first, 1, (257, 65), tmp_path / "first")
    base = tiny_base(kind)
    go_on_from(base, start, second)
    later = _learned(base, second, 2, (65, 66), tmp_path / "later")
    wanted = _logits(base)

    join(start, later, tmp_path / "both", "tiny")
    again = tiny_base(kind)
    plain = _logits(again)
    config = lora.load_adapter(again.model, tmp_path / "both")
    assert config.r == 7
    assert (wanted - plain).abs().max() > 0.1
    assert torch.allclose(_logits(again), wanted, atol=1e-4)


def test_what_cannot_be_one_adapter_is_refused(tmp_path: Path) -> None:
    start = _learned(tiny_base(), LoraConfig(r=2), 1, (), tmp_path / "first")
    with pytest.raises(UsageError, match="DoRA"):
        go_on_from(tiny_base(), start, LoraConfig(r=2, dora=True))
    with pytest.raises(UsageError, match="rank 2, and with 1024 more"):
        go_on_from(tiny_base(), start, LoraConfig(r=1024))
