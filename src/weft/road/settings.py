"""Everything a run can be told, in one Config: what the road needs, and how to train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weft.settings import Config, Resolved
from weft.train.sft_config import SftConfig


class DataConfig(Config):
    """Which model, which data, which task."""

    base: str = "weft-nano"
    """The model to start from: `weft-nano` (inside the package), a local folder, or a hub name."""
    input: str | None = None
    """Column or key that holds the question, where it is not recognised by itself."""
    output: str | None = None
    """Column or key that holds the ideal answer."""
    system: str | None = None
    """System message put before every example that has none."""
    docs: str | None = None
    """Folder of text files for the `rag` arm."""
    task: Literal["classification", "structured", "text"] | None = None
    """Kind of answer, where the one inferred from the training answers is not wanted."""
    grader: str | None = None
    """The grader that decides, where the one inferred is not wanted."""
    test_rows: int = Field(default=1000, ge=20)
    """Most test rows that every arm answers (a larger test split is cut to the same rows for all)."""
    choice_rows: int = Field(default=24, ge=4)
    """Validation rows on which prompts and shots are chosen."""


class RoadConfig(SftConfig, DataConfig):
    """All settings of `weft run`."""

    method: Literal["sft"] = "sft"
    """How the base is tuned."""


def training_part(settings: Resolved[RoadConfig]) -> Resolved[SftConfig]:
    """Those settings that training has, with their origins."""
    keys = SftConfig.model_fields
    values = settings.config.model_dump(include=set(keys))
    return Resolved(SftConfig.model_validate(values), {key: settings.origins[key] for key in keys})
