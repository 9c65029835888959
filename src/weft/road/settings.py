"""Everything a run can be told, in one Config for each way of tuning: where it learns from, and how."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from weft.settings import Config, Resolved
from weft.train.dpo_config import DpoConfig
from weft.train.pretrain_config import PretrainConfig
from weft.train.sft_config import SftConfig
from weft.train.tuning_config import TuningConfig

T = TypeVar("T", bound=TuningConfig)


class BaseConfig(Config):
    """Which model."""

    base: str = "weft-nano"
    """The model to start from: `weft-nano` (inside the package), a local folder, or a hub name."""
    quantize: Literal["none", "nf4"] = "none"
    """Keep the frozen base in 4 bits while an adapter learns: `nf4` (QLoRA; needs `weft[quant]`, not with --full)."""


class SourceConfig(BaseConfig):
    """Which model, and how every example begins."""

    system: str | None = None
    """System message put before every example that has none."""


class DataConfig(SourceConfig):
    """Which fields of the data, which task."""

    input: str | None = None
    """Column or key that holds the question, where it is not recognised by itself."""
    output: str | None = None
    """Column or key that holds the ideal answer."""
    docs: str | None = None
    """Folder of text files for the `rag` arm."""
    task: Literal["classification", "structured", "text"] | None = None
    """Kind of answer, where the one inferred from the training answers is not wanted."""
    grader: str | None = None
    """The grader that decides, where the one inferred is not wanted."""
    structured_outputs: bool = True
    """Hold the answers of all arms to the JSON schema of the training answers, where these are JSON objects."""
    test_rows: int = Field(default=1000, ge=20)
    """Most test rows that every arm answers (a larger test split is cut to the same rows for all)."""
    choice_rows: int = Field(default=24, ge=4)
    """Validation rows on which prompts and shots are chosen."""


class RoadConfig(SftConfig, DataConfig):
    """All settings of `weft run`."""

    method: Literal["sft"] = "sft"
    """How the base is tuned: `sft` learns the ideal answers (`weft train` has other methods)."""


class PairsConfig(DpoConfig, SourceConfig):
    """All settings of `weft train --method dpo`."""

    method: Literal["dpo"] = "dpo"
    """How the base is tuned: `dpo` learns to prefer the better reply of each pair."""


class DocumentsConfig(PretrainConfig, BaseConfig):
    """All settings of `weft train --method pretrain`."""

    method: Literal["pretrain"] = "pretrain"
    """How the base is tuned: `pretrain` learns whole documents."""


class MethodConfig(Config):
    """The one setting that says which others there are."""

    model_config = ConfigDict(extra="ignore")

    method: Literal["sft", "dpo", "pretrain"] = "sft"
    """How the base is tuned: `sft` learns ideal answers, `dpo` to prefer the better of two replies, `pretrain` text."""


def training_part(settings: Resolved[Any], kind: type[T] = SftConfig) -> Resolved[T]:
    """Those settings that training has, as its own `kind` of Config, with their origins."""
    keys = kind.model_fields
    values = settings.config.model_dump(include=set(keys))
    return Resolved(kind.model_validate(values), {key: settings.origins[key] for key in keys})
