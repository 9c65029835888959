"""A training that takes a second: a tiny base, a few conversations, eight steps of two epochs unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.models.load import Base, load
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.runs import Run
from weft.testing import tiny_base
from weft.train import sft
from weft.train.sft_config import SftConfig
from weft.train.steps import Trained
from weft.train.stop import Stop


def examples(count: int, start: int = 0) -> list[Conversation]:
    return [
        Conversation((Message("user", f"say {n}" + "!" * (n % 5)), Message("assistant", f"{n}")), line=n + 1)
        for n in range(start, start + count)
    ]


def config(**values: Any) -> SftConfig:
    ready = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 256, "validate_every": 4, "batch_size": 4}
    return SftConfig.model_validate({**ready, "precision": "float32", "lora": {"r": 4}, **values})


def train(
    folder: Path,
    base: Base | Path | None = None,
    *,
    stop: Stop | None = None,
    rows: int = 16,
    held_out: int = 4,
    **values: Any,
) -> tuple[Run, Trained]:
    """`base`: a folder is loaded anew, as full fine-tuning wants it."""
    run = Run.create(folder, {"run": {}})
    loaded = load(str(base)) if isinstance(base, Path) else base or tiny_base()
    trained = sft.train(run, loaded, examples(rows), examples(held_out, start=50), config(**values), Silent(), stop)
    return run, trained


def published(run: Run) -> dict[str, bytes]:
    """The bytes of what training published, at its end and after kept epochs, by their place in the run."""
    files = [path for name in ("adapter", "model", "epochs") for path in run.path(name).rglob("*") if path.is_file()]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in sorted(files)}
