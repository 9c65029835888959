"""What training leaves for others: an adapter, or with `full` a whole model; of the best step, and after kept epochs.

    RUN/adapter/                the best
    RUN/epochs/STEP/adapter/    as it stood after an epoch
    RUN/epochs/STEP/metrics.json

Folders appear whole or not at all, and their bytes depend on the training alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.errors import TrainError
from weft.models import lora
from weft.models.export import save_model
from weft.models.load import Base
from weft.runs import Run, explained, publish_folder
from weft.train import pieces, processes
from weft.train.tuning_config import TuningConfig

EPOCHS = "epochs"


def require_finite(parameters: Sequence[Tensor]) -> None:
    """Raise TrainError where one of what is to be published is not finite."""
    if not all(processes.everyones(all(bool(pieces.own(tensor).isfinite().all()) for tensor in parameters))):
        raise TrainError("the trained parameters hold non-finite numbers; nothing is published. Lower --learning-rate.")


def write_result(base: Base, config: TuningConfig, folder: Path) -> str:
    """Write the base's present adapter or whole weights into `folder`; returns the name: `adapter` or `model`.

    Of the processes of a torchrun the first alone writes a model. Raises ResourceError where the disk is full or not
    writable.
    """
    if config.full:
        weights = pieces.state_dict(base.model) if processes.count() > 1 else None
        if processes.rank() == 0:
            save_model(base, folder / "model", weights)
        processes.everyones(None)  # it stands; from here on the others may look for it
        return "model"
    lora.save_adapter(base.model, folder / "adapter", base_name=base.name, config=config.lora)
    return "adapter"


def keep_epoch(run: Run, base: Base, config: TuningConfig, step: int, facts: Mapping[str, Any]) -> None:
    """Publish what was learned by now as `epochs/STEP`, and drop all but the newest `keep_epochs` of them.

    `facts`: the measures beside it. A step that is published again, after a resume, is replaced by the same bytes.
    """
    root = run.path(EPOCHS)
    part = root / f".{step}.{os.getpid()}.part"
    with explained(root):
        _sweep(root)
        part.mkdir(parents=True)
        write_result(base, config, part)
        (part / "metrics.json").write_text(json.dumps({"step": step, **facts}, indent=1) + "\n", encoding="utf-8")
    publish_folder(part, root / str(step))
    run.event("kept epoch", step=step)
    with explained(root):
        for old in _kept(root)[: -config.keep_epochs]:
            gone = root / f".{old.name}.old"  # renamed first: a kill here leaves no half of an adapter
            old.rename(gone)
            shutil.rmtree(gone)


def _kept(root: Path) -> list[Path]:
    return sorted((path for path in root.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _sweep(root: Path) -> None:
    """Remove what a kill left half written."""
    for path in root.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)
