"""A worker's voice while it works: it is alive, these steps are done, these epochs kept; warnings, and how long yet.

A thread of its own, so that no step waits for a database. What is told comes from the run's folder, where it stands
before anybody hears of it: a worker that goes on after a crash tells what was not told yet.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from weft.progress import Silent
from weft.serve.work.channel import Closed, Theirs
from weft.serve.work.measures import Tail, by_step, of_step
from weft.serve.work.names import epoch
from weft.serve.work.protocol import MOST_STEPS, Beat, Epoch, Note, Order, Settled, StepMeasures, Steps, Word
from weft.train.tuning_config import TuningConfig
from weft.train.warn import WARNING

_TELL_SECONDS = 1.0
_FORECAST_SECONDS = 30.0
_GONE = 4


class Reporter(Silent):
    """Listens to the progress of a training and reads its folder. Use it as a context around all the work."""

    def __init__(self, order: Order, channel: Theirs) -> None:
        self._order, self._channel = order, channel
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)
        self._told_at = self._forecast_at = -float("inf")
        self._telling = threading.Lock()
        self._last_step = order.last_step
        self._training: _Training | None = None
        self._ready: Callable[[str], None] = lambda _: None
        self.told: dict[int, StepMeasures] = {}
        """Steps that are in the folder and complete, by number."""

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def say(self, text: str) -> None:
        print(text, flush=True)  # into the attempt's log

    def word(self, word: Word) -> None:
        """Tell the supervisor. Ends the process where it refuses or is gone: nothing more would count."""
        try:
            refused = self._channel.say(word).refused
        except Closed as error:
            refused = str(error)
        if refused is not None:
            print(f"worker: {refused}", file=sys.stderr, flush=True)
            os._exit(_GONE)

    def expect(self, folder: Path, config: TuningConfig, settled: Settled, ready: Callable[[str], None]) -> None:
        """What will be trained, in which run's folder; `ready` is called before an adapter in it is told of."""
        self._training, self._ready = _Training(folder, config, settled), ready
        self.word(settled)

    def start(self, stage: str, total: int | None = None, unit: str = "") -> None:
        # By now a resume has dropped the lines that it will repeat.
        if stage == "train" and total is not None and self._training is not None:
            self._training.begin(total)

    def finish(self, note: str = "") -> None:
        if note:
            print(note, flush=True)

    def close_books(self, published: int | None = None) -> None:
        """Tell what is left, whether or not it looks complete: no line comes any more.

        `published`: the step whose adapter the last word is about; without it, the last epoch's is told too.
        """
        with self._telling:
            if self._training is not None and published is not None:
                self._training.published = published
            self._tell_warnings()
            self._tell_steps(final=True)
            self._tell_epochs()

    def _work(self) -> None:
        try:
            self._tell_on()
        except Exception:  # a worker that nobody hears must not work on
            traceback.print_exc()
            os._exit(_GONE)

    def _tell_on(self) -> None:
        pause = min(self._order.beat_seconds, _TELL_SECONDS)
        while not self._over.is_set():
            now = time.monotonic()
            if now - self._told_at >= self._order.beat_seconds:
                self._told_at = now
                self.word(Beat())
            with self._telling:
                self._tell_warnings()
                self._tell_steps(final=False)
                self._tell_epochs()
                self._tell_forecast(now)
            self._over.wait(pause)

    def _tell_warnings(self) -> None:
        for message in self._training.new_warnings() if self._training is not None else ():
            self.word(Note(message=message))

    def _tell_steps(self, *, final: bool) -> None:
        if self._training is None:
            return
        ready = self._training.ready(final)
        self.told |= {told.step: told for told in ready}
        new = [told for told in ready if told.step > self._last_step]
        self._last_step = max([self._last_step, *(told.step for told in new)])
        for first in range(0, len(new), MOST_STEPS):
            self.word(Steps(steps=tuple(new[first : first + MOST_STEPS])))

    def _tell_epochs(self) -> None:
        """Adapters of epochs that are over, but for the one that may be what is published."""
        training = self._training
        for step in training.new_epochs() if training is not None else ():
            if step in self.told:
                training.epochs_told.add(step)  # type: ignore[union-attr]
                try:
                    self._ready(epoch(step))
                except FileNotFoundError:  # newer epochs took its place meanwhile
                    continue
                self.word(Epoch(step=step, values=self.told[step].values))

    def _tell_forecast(self, now: float) -> None:
        if self._training is None or now - self._forecast_at < _FORECAST_SECONDS:
            return
        left = self._training.seconds_left(now)
        if left is not None:
            self._forecast_at = now
            self.word(self._training.settled.model_copy(update={"seconds_left": left}))


class _Training:
    """What the run's folder says of a training so far."""

    def __init__(self, folder: Path, config: TuningConfig, settled: Settled) -> None:
        self.settled = settled
        self.epochs_told: set[int] = set()
        self._folder, self._config = folder, config
        self._tail = Tail(folder / "metrics.jsonl")
        self._events = Tail(folder / "events.jsonl", from_here=True)  # earlier attempts told theirs
        self._waiting: dict[int, list] = {}
        self._total = 0
        self.published: int | None = None
        """The step whose adapter is the model itself; until that is known the last one is taken for it."""
        self._began: tuple[float, int] | None = None
        self._last = 0

    def begin(self, total: int) -> None:
        self._total = total

    def ready(self, final: bool) -> list[StepMeasures]:
        """Steps whose lines are all there: those before the newest, and the newest where no look follows it."""
        if not self._total:
            return []
        for step, lines in by_step(self._tail.lines()).items():
            self._waiting.setdefault(step, []).extend(lines)
        newest = max(self._waiting, default=0)
        self._last = max(self._last, newest)
        per_epoch = self._total // int(self._config.epochs)
        looked_at = newest % int(self._config.validate_every) == 0 or newest % per_epoch == 0
        done = sorted(step for step in self._waiting if final or step < newest or not looked_at)
        return [of_step(self._waiting.pop(step), self._total, per_epoch) for step in done]

    def new_warnings(self) -> list[str]:
        """What the run says to its owner since the last call."""
        return [event["message"] for event in self._events.lines() if event["event"] == WARNING]

    def new_epochs(self) -> list[int]:
        """Steps at which an epoch ended whose adapter is kept and was not told of."""
        if not self._total:
            return []
        kept = (int(path.name) for path in self._folder.glob("epochs/*") if path.name.isdigit())
        held_back = self.published or self._total
        return sorted(step for step in kept if step != held_back and step not in self.epochs_told)

    def seconds_left(self, now: float) -> float | None:
        """By the pace of this attempt, once it has one."""
        if not self._last:
            return None
        if self._began is None:
            self._began = now, self._last
            return None
        since, first = self._began
        if self._last == first:
            return None
        return (self._total - self._last) * (now - since) / (self._last - first)
