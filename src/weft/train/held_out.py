"""Whether there is anything to choose by: the best parameters want validation examples, those of the last step none."""

from __future__ import annotations

from collections.abc import Sized

from weft.errors import TrainError
from weft.train.tuning_config import TuningConfig


def require_held_out(validation: Sized, config: TuningConfig, what: str, differing: str) -> None:
    """Raise TrainError where the best is to be published and nothing tells which that is.

    `what` the method learns from, and the part of it that must be `differing`, both in the plural.
    """
    if validation or config.publish == "last":
        return
    raise TrainError(
        f"there are no validation {what}, so nothing tells when to stop: near-duplicates stay in one part, and these "
        f"{differing} are all alike. Add {what} that differ, or publish what the last step leaves (--publish last)."
    )
