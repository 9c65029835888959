"""A tiny base, and a task that it learns in seconds: the topic of a message, told by one word, as JSON."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from weft.progress import Silent
from weft.road.whole import whole
from weft.testing import save_base

WORDS = {"billing": "invoice", "shipping": "parcel", "account": "login"}


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> None:
    """Several threads on a busy machine wait for each other far longer than these models compute."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture
def run_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str) -> Callable[..., dict[str, Any]]:
    """The whole road in an empty working folder; the report."""
    monkeypatch.chdir(tmp_path)

    def run(data: str, out: str = "run", base: str = tiny, **flags: Any) -> dict[str, Any]:
        return whole(data, out, None, {"base": base, **flags}, Silent())

    return run


def _topics(count: int = 100, seed: int = 1) -> list[tuple[str, str]]:
    """(question, topic): every question has a name of its own, its first word tells the topic."""
    draw = random.Random(seed)
    names = [a + b + c for a in ("bo", "ka", "mi", "ta", "zu") for b in ("ran", "vel", "dor", "lin") for c in "aeiou"]
    draw.shuffle(names)
    chosen = [draw.choice(list(WORDS)) for _ in names[:count]]
    return [(f"{WORDS[topic]} {name}", topic) for name, topic in zip(names, chosen, strict=False)]


def _write_json(path: Path, rows: list[tuple[str, str]]) -> str:
    """Answers as one JSON object: no classifier can give them."""
    lines = [json.dumps({"prompt": question, "completion": json.dumps({"topic": topic})}) for question, topic in rows]
    path.write_text("\n".join(lines) + "\n")
    return path.name


def _write_labels(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path.name


def _figures(value: Any) -> Any:
    """A report without what may differ between two runs: time and the clock."""
    if isinstance(value, Mapping):
        return {k: _figures(v) for k, v in value.items() if k not in ("seconds", "seconds_per_request", "created")}
    return [_figures(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="session")
def topics() -> Callable[..., list[tuple[str, str]]]:
    return _topics


@pytest.fixture(scope="session")
def write_json() -> Callable[..., str]:
    return _write_json


@pytest.fixture(scope="session")
def write_labels() -> Callable[..., str]:
    return _write_labels


@pytest.fixture(scope="session")
def figures() -> Callable[[Any], Any]:
    return _figures


@pytest.fixture(scope="session")
def learn() -> dict[str, Any]:
    """Settings with which the tiny base learns the topics; 102 steps."""
    return {"learning_rate": 1e-2, "batch_size": 4, "epochs": 6}


@pytest.fixture(scope="session")
def brief() -> dict[str, Any]:
    """Settings for a run whose learning does not matter."""
    return {"learning_rate": 1e-3, "batch_size": 16, "epochs": 1, "lora": {"r": 4}}
