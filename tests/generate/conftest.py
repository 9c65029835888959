"""What the tests of serving stand on: a tiny base, adapters of every kind, and listeners that remember."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.generate.continuous import Engine
from weft.generate.requests import Draw, Generation, Limits, Step
from weft.models import lora
from weft.models.load import Base, load
from weft.models.lora_config import LoraConfig
from weft.testing import save_base

PATIENCE = 60.0
"""Seconds. Nothing here takes one; machines may be busy."""

KINDS: dict[str, tuple[LoraConfig, tuple[int, ...]]] = {
    "plain": (LoraConfig(r=4), ()),
    "wide": (LoraConfig(r=24, rslora=True, targets=("q_proj", "down_proj")), ()),
    "dora": (LoraConfig(r=3, dora=True), ()),
    "rows": (LoraConfig(r=2, targets=("v_proj",)), (5, 258)),
    "dora, rows": (LoraConfig(r=2, dora=True, targets=("k_proj", "up_proj")), (7,)),
}
"""Adapters by name: their settings, and the tokens whose vectors learn."""


def save_random_adapter(model: Any, folder: Path, config: LoraConfig, tokens: Sequence[int], seed: int) -> None:
    """An adapter as training could have left it: every part of it changes the answer."""
    generator = torch.Generator().manual_seed(seed)
    lora.wrap(model, config, seed, tokens=tokens)
    with torch.no_grad():
        for layer in lora.layers(model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)
            if config.dora:
                layer.parts()["lora_magnitude_vector"].mul_(torch.rand(layer.out_features, generator=generator) + 0.5)
        for rows in {module.rows for module in model.modules() if hasattr(module, "rows")}:
            rows.add_(torch.randn(rows.shape, generator=generator) * 0.3)
    lora.save_adapter(model, folder, base_name="tiny", config=config)
    lora.unwrap(model)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny base of the Llama family, as a Decoder."""
    return load(str(save_base(tmp_path_factory.mktemp("base") / "tiny")))


@pytest.fixture(scope="session")
def adapters(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter per entry of KINDS."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, (config, tokens)) in enumerate(KINDS.items()):
        save_random_adapter(base.model, folder / name, config, tokens, seed)
    return folder


class Heard:
    """A listener: what one request heard."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._ended = threading.Event()

    def __call__(self, step: Step) -> None:
        assert not self._ended.is_set(), "a step after the last one"
        self.steps.append(step)
        if step.finish:
            self._ended.set()

    def wait(self) -> Heard:
        assert self._ended.wait(PATIENCE), f"no end after {len(self.steps)} steps"
        return self

    @property
    def ids(self) -> list[int]:
        return [token for step in self.steps for token in step.ids]

    @property
    def finish(self) -> str | None:
        return self.steps[-1].finish if self.steps else None

    @property
    def cached(self) -> int:
        return self.steps[-1].cached


class Served:
    """Engines over one base, closed with the test."""

    def __init__(self, base: Base, folder: Any) -> None:
        self.base, self.folder, self.engines = base, folder, list[Engine]()

    def engine(self, base: Base | None = None, folder: Any = None, **limits: Any) -> Engine:
        place = folder or (lambda identity: self.folder / identity)
        self.engines.append(Engine(base or self.base, place, Limits(**limits), dtype=torch.float32))
        return self.engines[-1]


@pytest.fixture
def served(base: Base, adapters: Path) -> Iterator[Served]:
    made = Served(base, adapters)
    yield made
    for engine in made.engines:
        engine.close()


def ask(engine: Engine, prompt: Sequence[int], most: int = 8, adapter: str | None = None, **more: Any) -> Heard:
    """Submit a request, greedy unless said otherwise; returns its listener."""
    outer = {key: more.pop(key) for key in ("end_ids", "constraint", "owner") if key in more}
    heard = Heard()
    engine.submit(Generation(tuple(prompt), Draw(most, **{"temperature": 0.0, **more}), adapter, **outer), heard)
    return heard


def prompts(count: int, shared: int = 0, seed: int = 0, most: int = 60) -> list[list[int]]:
    """Random prompts of 1 to `most` tokens behind `shared` common ones."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 256, (shared,), generator=generator).tolist()
    lengths = torch.randint(1, most + 1, (count,), generator=generator).tolist()
    return [start + torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def alone(base: Base, prompt: Sequence[int], most: int, adapter: Path | None = None) -> tuple[list[int], torch.Tensor]:
    """Greedy ids of one request by plain forward passes over all of it, and the logits (most, V) behind them."""
    if adapter is not None:
        lora.load_adapter(base.model, adapter)
    ids, rows = list(prompt), []
    with torch.no_grad():
        for _ in range(most):
            rows.append(base.model(torch.tensor([ids])).logits[0, -1])
            ids.append(int(rows[-1].argmax()))
    if adapter is not None:
        lora.unwrap(base.model)
    return ids[len(prompt) :], torch.stack(rows)
