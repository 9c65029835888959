"""The settings that every way of tuning a base has, apart from the loops so that `weft train --help` needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from weft.models.lora_config import LoraConfig
from weft.settings import Config
from weft.train.schedules import ScheduleName


class TuningConfig(Config):
    """What is trained, how fast, how long. Each method's Config adds what is its own."""

    full: bool = False
    """Train every parameter instead of a LoRA adapter."""
    lora: LoraConfig = LoraConfig()
    """The adapter's shape."""
    train_end_token: Literal["auto", "always", "never"] = "auto"
    """Train the end token's row of the vocabulary beside the adapter; `auto`: where the base never learned it."""
    train_tokens: Literal["auto", "seen", "none"] = "auto"
    """Rows of the vocabulary that learn beside the adapter, at a quarter of its rate: `seen`, those of the training
    examples' tokens; `auto`: so with bases of under 50 million parameters, which know few words well."""
    lora_plus_ratio: float = Field(default=1.0, gt=0)
    """Rate of the adapter's B matrices over that of its A matrices (LoRA+, Hayou et al. 2024, arXiv:2402.12354)."""
    learning_rate: float | Literal["auto"] = "auto"
    """Peak rate of AdamW; `auto` goes by method, the model's size and whether all of it is trained."""
    epochs: int | Literal["auto"] = "auto"
    """Most passes over the training examples; `auto` goes by their number."""
    batch_size: int = Field(default=16, ge=1)
    """Examples per optimizer step."""
    schedule: ScheduleName = "cosine"
    """How the rate goes on after the warm-up: `wsd` holds it and falls over the last fifth of the steps."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises from zero to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; a larger one is scaled down."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers that training multiplies; what is trained stays float32. `auto`: bfloat16 where the processor has it."""
    max_tokens: int | Literal["auto"] = "auto"
    """Longest example in tokens; longer ones are left out and counted, never cut. `auto`: the base's context."""
    validate_every: int | Literal["auto"] = "auto"
    """Optimizer steps between looks at the validation loss; `auto`: once an epoch, at least every 500."""
    patience: int = Field(default=3, ge=1)
    """Looks without improvement after which training stops."""
    min_improvement: float = Field(default=0.0, ge=0)
    """Smallest improvement of the validation loss, or of the score that training stops on, that counts as one."""
    publish: Literal["best", "last"] = "best"
    """Which parameters are published: those of the best validation, or with `last` those of the last step; then nothing
    stops early, and no validation examples are needed."""
    recompute: Literal["auto", "always", "never"] = "auto"
    """Compute layers again on the way back, not keep them; `auto`: where one example does not fit otherwise."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop after this time and keep the best so far; a run that is cut by the clock is not repeatable to the byte."""
    keep_epochs: int = Field(default=0, ge=0)
    """Publish what each epoch ends with, and its measures, as `epochs/STEP`; the last so many are kept."""
    seed: int = Field(default=0, ge=0)
    """Order of examples and first values of the adapter."""

    @field_validator("train_end_token")
    @classmethod
    def _not_with_everything(cls, choice: str, told: ValidationInfo) -> str:
        if choice == "always" and told.data.get("full"):
            raise ValueError("--full trains every row of the vocabulary; leave one out")
        return choice

    @field_validator("train_tokens")
    @classmethod
    def _not_with_everything_either(cls, choice: str, told: ValidationInfo) -> str:
        if choice == "seen" and told.data.get("full"):
            raise ValueError("--full trains every row of the vocabulary; leave one out")
        return choice

    @field_validator("lora_plus_ratio")
    @classmethod
    def _needs_an_adapter(cls, ratio: float, told: ValidationInfo) -> float:
        if ratio != 1 and told.data.get("full"):
            raise ValueError("with --full there is no adapter whose matrices could learn at two rates; leave one out")
        return ratio


def require_choice(stop_on: str, told: ValidationInfo) -> str:
    """`stop_on`, if it has something to choose. Raises ValueError, for the validators of Configs that have a score."""
    if stop_on != "loss" and told.data.get("publish") == "last":
        raise ValueError("with --publish last nothing is chosen by a score; leave one out")
    return stop_on


class LikelihoodConfig(TuningConfig):
    """What methods that raise the likelihood of tokens have in common."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each learned token's target that all tokens get alike; the validation loss stays without it."""
