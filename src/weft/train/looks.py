"""Looks at held-out examples between steps: the best so far, what is published of kept epochs, and the log of both.

Where the last step is what is published the best is only noted, and there may be no examples to look at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from weft.errors import TrainError
from weft.models.load import Base
from weft.runs import Run
from weft.train.learner import Learner
from weft.train.publish import keep_epoch, require_finite
from weft.train.resume import State
from weft.train.tuning_config import TuningConfig


class Looks:
    """Those of one training. `goal`: what the best is chosen by, the `loss` or one of the measures (more is better)."""

    def __init__(self, run: Run, base: Base, config: TuningConfig, learner: Learner, goal: str, per_epoch: int) -> None:
        self._run, self._base, self._config, self._learner = run, base, config, learner
        self._goal, self._per_epoch = goal, per_epoch

    def ends_kept_epoch(self, state: State) -> bool:
        return bool(self._config.keep_epochs) and state.step % self._per_epoch == 0

    def note(self, state: State, trained: Mapping[str, float], loss: float | None, measures: dict[str, float]) -> None:
        """Take down a look after step `state.step`: its `loss` and `measures` beside those of the step, `trained`.

        `loss`: None without validation examples. Keeps the parameters where they are the best so far; after an epoch
        that is to be kept, publishes it. Raises TrainError where `loss` is not finite.
        """
        looked = {} if loss is None else self._looked(state, loss, measures)
        if self.ends_kept_epoch(state):
            require_finite(self._learner.parameters)
            facts = {"epoch": state.step // self._per_epoch, **trained, **looked}
            keep_epoch(self._run, self._base, self._config, state.step, facts)

    def _looked(self, state: State, loss: float, measures: dict[str, float]) -> dict[str, float]:
        """Log and judge a look; what it measured, by the names of the log."""
        state.curve["validation"].append((state.step, loss))
        if not math.isfinite(loss):
            raise TrainError(
                f"step {state.step}: validation loss {loss}; expected a finite number. "
                "Nothing is published. Lower --learning-rate and name another --out."
            )
        looked = {"validation_loss": loss, **{f"validation_{name}": value for name, value in measures.items()}}
        self._run.metric(step=state.step, **looked)
        score = -loss if self._goal == "loss" else measures[self._goal]
        if score > state.best_score + self._config.min_improvement:
            state.best_score, state.best_loss, state.best_step, state.looks_without_gain = score, loss, state.step, 0
            state.best_measures = measures
            if self._config.publish == "best":
                self._learner.keep()
        else:
            state.looks_without_gain += 1
        return looked
