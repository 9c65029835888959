"""What every way of tuning a base does alike at each optimizer step, so that a method's loop holds its own idea only.

    steps = Steps(run, base, config, examples, progress)   # makes the base learn
    for batch in steps.batches(lengths):                   # from the newest checkpoint until steps, patience or a stop
        …forward and backward, the method's own…
        steps.update(loss, tokens)                         # clip, rate, step, log
        if steps.look_due:
            steps.look(validation_loss)                    # keep the best parameters, and the epoch's where wanted
        steps.save_if_due()
    trained = steps.publish(skipped_lines, skipped_validation_lines)

State is saved between steps only, and batches are a function of seed, epoch and position: a run that was killed goes on
and ends in the same bytes, or says why not (`conditions.py`). Nothing is published that is not finite or that training
did not change.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence

from torch import nn

from weft.errors import Stopped, TrainError
from weft.models.load import Base
from weft.progress import Progress
from weft.runs import Run
from weft.train import processes
from weft.train.batches import epoch_batches
from weft.train.conditions import conditions
from weft.train.learner import Learner
from weft.train.looks import Looks
from weft.train.publish import require_finite, write_result
from weft.train.resume import State, resume, save
from weft.train.schedules import rate
from weft.train.spikes import NEEDED, jumped
from weft.train.stop import Stop, by_terminate
from weft.train.trained import Trained
from weft.train.tuning_config import TuningConfig
from weft.train.vocabulary import in_words
from weft.train.warn import warn

SAVE_SECONDS = 15.0
"""Most work that a crash can cost."""


class Steps:
    """The optimizer steps of one training, and where it stands. `config` must be settled."""

    def __init__(
        self,
        run: Run,
        base: Base,
        config: TuningConfig,
        examples: int,
        progress: Progress,
        stop: Stop | None = None,
        goal: str = "loss",
        tokens: Sequence[int] = (),
    ) -> None:
        """Makes `base` learn, in place; until `batches` is asked for, it still answers as it did.

        `tokens`: whose rows of the vocabulary learn beside the adapter. `goal`: what the best is chosen by, the `loss`
        or one of a look's measures, of which more is better.
        """
        self._run, self._base, self._config, self._progress = run, base, config, progress
        self._stop, self._goal = stop or Stop(), goal
        if tokens:
            progress.say(in_words(base, config, tokens))
        self._learner = Learner(base, config, tokens)
        self.state = State()
        self._per_epoch = math.ceil(examples / config.batch_size)
        self._looks = Looks(run, base, config, self._learner, goal, self._per_epoch)
        self.total = self._per_epoch * int(config.epochs)
        self._started = self._saved = time.monotonic()
        self._before = 0.0
        self._stopped = ""
        self._saved_step = 0
        self._measured: dict[str, float] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return self._learner.parameters

    @property
    def epoch(self) -> int:
        """The pass over the examples that the next step belongs to, from 0."""
        return self.state.step // self._per_epoch

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Inside, SIGTERM is an order to stop between two steps. To be entered before other processes are forked."""
        return by_terminate(self._stop)

    def batches(self, lengths: Sequence[int], family: Sequence[int] = ()) -> Iterator[list[int]]:
        """The example numbers of each step that is still to do; `lengths` in tokens and `family` (which begin alike:
        `batches.families`), one per example.

        First puts back what the newest sound checkpoint of the run holds, where there is one. Raises Stopped between
        steps where that is ordered, with everything saved.
        """
        learner, now = self._learner, conditions(self._base, self._config)
        self.state = resume(self._run, self.parameters, learner.best, learner.optimizer, now, self._progress.say)
        self._saved_step = self.state.step
        self._started = self._saved = time.monotonic()
        self._before = self.state.seconds
        self._progress.start("train", self.total, "steps")
        self._progress.advance(self.state.step)
        self._base.model.train()
        known, batches = -1, []
        while not self._over():
            self._leave_if_told()
            if self.epoch != known:
                known = self.epoch
                batches = epoch_batches(lengths, self._config.batch_size, self._config.seed, known, family)
            yield batches[self.state.step % self._per_epoch]
        self._progress.finish("; ".join([self._stopped, *self._best_in_words()]))

    def _best_in_words(self) -> list[str]:
        """What the looks found, if there were any."""
        if self.state.best_step < 0:
            return []
        value = self.state.best_loss if self._goal == "loss" else self.state.best_score
        return [f"best validation {self._goal} {value:.4f} at step {self.state.best_step}"]

    def update(self, loss: float, tokens: int, **measures: float) -> None:
        """One optimizer step from the gradients of a mean `loss` over `tokens` tokens; `measures` go into the log.

        Raises TrainError where loss or gradient is not finite.
        """
        state, config, peak = self.state, self._config, float(self._config.learning_rate)
        norm = self._learner.clip(config.clip)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainError(
                f"step {state.step + 1}: loss {loss}, gradient norm {norm}; expected finite numbers. "
                f"Nothing is published. Lower --learning-rate (now {peak:g}) and name another --out."
            )
        warmup = round(config.warmup * self.total)
        now = peak * rate(config.schedule, state.step, self.total, warmup=warmup, decay=self.total // 5)
        self._learner.step(now)

        state.step += 1
        state.tokens += tokens
        state.seconds = processes.agreed(self._before + time.monotonic() - self._started)
        state.curve["train"].append((state.step, loss))
        self._measured = {"loss": loss, **measures}
        self._run.metric(
            step=state.step, loss=loss, learning_rate=now, gradient_norm=norm, tokens=state.tokens, **measures
        )
        self._progress.advance(1, _note(state, loss))
        self._tell_jump()

    def _tell_jump(self) -> None:
        losses = [loss for _, loss in self.state.curve["train"][-NEEDED:]]
        if (usual := jumped(losses)) is not None:
            published = "the last step" if self._config.publish == "last" else "the best by validation"
            told = (
                f"The training loss jumped: {losses[-1]:.3g} at step {self.state.step}, where {usual:.3g} had been "
                f"usual. Training goes on, and what is published is {published}; a lower learning_rate may avoid it."
            )
            warn(self._run, self._progress.say, told, step=self.state.step)

    @property
    def look_due(self) -> bool:
        """Whether the validation loss is to be looked at now.

        That is regularly, at the end, after an epoch that is kept, once before time runs out.
        """
        state = self.state
        regular = state.step % int(self._config.validate_every) == 0 or state.step == self.total
        return regular or self._looks.ends_kept_epoch(state) or (self._out_of_time() and state.best_step < 0)

    def look(self, loss: float | None = None, **measures: float) -> None:
        """Note the validation loss and what else was measured; keep the parameters where they are the best so far.

        Nothing is measured where there are no validation examples. After an epoch that is to be kept, publish it
        beside. Raises TrainError where the loss is not finite.
        """
        self._looks.note(self.state, self._measured, loss, measures)

    def save_if_due(self) -> None:
        """A checkpoint, where the last one is SAVE_SECONDS old."""
        if processes.agreed(time.monotonic() - self._saved > SAVE_SECONDS):
            self._save()

    def _save(self) -> None:
        save(self._run, self.state, self.parameters, self._learner.best, self._learner.optimizer)
        self._saved, self._saved_step = time.monotonic(), self.state.step

    def _leave_if_told(self) -> None:
        """Raise Stopped where that is ordered, with the state saved."""
        if not any(processes.everyones(self._stop.ordered)):
            return
        if self.state.step != self._saved_step:
            self._save()
        self._run.event("stopped", step=self.state.step)
        raise Stopped(
            f"{self._run.folder}: told to stop, and stopped after step {self.state.step} of {self.total}. "
            "Nothing is lost; the same command goes on from here."
        )

    def publish(self, skipped_lines: Sequence[int], skipped_validation_lines: Sequence[int] = ()) -> Trained:
        """Write `adapter/` (or `model/` with `full`) into the run, of the best parameters or the last; the record.

        Raises TrainError where they are not finite or training did not change them.
        """
        if last := self._config.publish == "last":
            self._learner.keep()
        require_finite(self._learner.best)
        if not self._learner.moved:
            raise TrainError(
                "training changed nothing, so there is nothing to publish. Raise --learning-rate or --epochs, "
                "or check that the examples leave tokens to learn."
            )
        self._learner.put_best_back()
        self._base.model.eval()
        with self.listening():  # one that comes now waits until all is written
            result = write_result(self._base, self._config, self._run.folder)
        state, looked = self.state, self.state.best_step >= 0
        return Trained(
            method="full" if self._config.full else "lora",
            trainable_parameters=sum(parameter.numel() for parameter in self.parameters),
            total_parameters=self._base.parameters,
            steps=state.step,
            published_step=state.step if last else state.best_step,
            best_step=state.best_step if looked else None,
            best_loss=state.best_loss if looked else None,
            best_measures=state.best_measures,
            chosen_by=self._goal,
            stopped_because=self._stopped,
            seconds=round(state.seconds, 1),
            tokens=state.tokens,
            skipped_lines=tuple(skipped_lines),
            skipped_validation_lines=tuple(skipped_validation_lines),
            not_exact=tuple(state.not_exact),
            result=result,
            curve=state.curve,
        )

    def _over(self) -> bool:
        """Whether training ends here, and in `_stopped` why."""
        if self._config.publish == "best" and self.state.looks_without_gain >= self._config.patience:
            self._stopped = f"validation {self._goal} has not improved for {self._config.patience} looks"
        elif self.state.step and self._out_of_time():
            self._stopped = f"the time limit of {self._config.max_minutes:g} minutes"
        elif self.state.step >= self.total:
            self._stopped = "all epochs done"
        return bool(self._stopped)

    def _out_of_time(self) -> bool:
        return self._config.max_minutes is not None and self.state.seconds > 60 * self._config.max_minutes


def _note(state: State, loss: float) -> str:
    look = f", validation {state.curve['validation'][-1][1]:.3f}" if state.curve["validation"] else ""
    return f"loss {loss:.3f}{look}"
