"""The serving engine: one thread, replies that join and leave at any step, an adapter per row.

    submit → waiting line (`line.py`) → reads its prompt, a piece per step → answers, a token per step → leaves

A step is one pass over the tokens of all running rows. What goes wrong with one row ends that row, told as a step with
`finish` "error"; the others go on. Words, templates and stop strings are not known here: ids in, ids out.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from weft.errors import RunError, WeftError
from weft.generate.adapters import Failed, Shelf, room_of
from weft.generate.admission import Admission
from weft.generate.constrain import Grammars
from weft.generate.draw import Drawing, Picked, pick
from weft.generate.general import GeneralPass
from weft.generate.passes import DecoderPass
from weft.generate.prefixes import BLOCK
from weft.generate.requests import Counts, Finish, Full, Generation, Limits, Step
from weft.generate.row import Row, refuse_impossible
from weft.generate.sharing import Sharing
from weft.generate.work import Pass, Work
from weft.models import precision
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.models.quant import is_quantized
from weft.models.threads import SMALL

LONGEST_RETRY = 60.0
"""Seconds."""


class Ticket:
    """A request's handle."""

    def __init__(self, engine: Engine, row: Row) -> None:
        self._engine, self._row = engine, row

    def cancel(self) -> None:
        """End the reply before its next token; it hears `finish` "cancelled", unless it has ended already."""
        self._row.cancelled = True
        self._engine.wake()


class Engine:
    """Serves one base with any number of adapters. The base belongs to it: its matrices change their layout.

    `adapter_folder`: identity → folder of its two files; called in a loading thread, and what it raises ends the
    requests that wait for that adapter. `dtype`: number format of frozen weights and states; without it the one in
    which the base answers elsewhere (`precision.for_answering`).
    """

    def __init__(
        self,
        base: Base,
        adapter_folder: Callable[[str], Path],
        limits: Limits | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.base, self.limits = base, limits or Limits()
        self._pass = _pass_over(base, dtype)
        self._vocabulary = int(base.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
        self.grammars = Grammars(base.chat.tokenizer, self._vocabulary, base.chat.end_ids)
        """Makes the constraints of this base's replies."""
        self._sharing = Sharing(self._pass, self.limits.cache_bytes)
        self._shelf = Shelf(
            room_of(base.model), adapter_folder, self._pass.pack, self.limits.adapter_bytes, self.wake
        )  # fmt: skip
        self._change = threading.Condition()
        self._changed = False
        self._admission = Admission(self.limits, self._shelf, self._pass.token_bytes)
        self._running: list[Row] = []
        self._deadline: float | None = None
        self._ended = ""
        self._generated = self._read = self._reused = 0
        self._pace, self._last_end = 1.0, time.monotonic()  # seconds between two replies' ends, smoothed
        self._thread = threading.Thread(target=self._run, name=f"weft-engine-{base.name}", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, generation: Generation, on_step: Callable[[Step], None]) -> Ticket:
        """Put a request in the line; `on_step` hears of it from the engine's thread and must not block.

        Raises UsageError where it cannot be served at all, Full where the line has no place, RunError where the engine
        has ended.
        """
        name, context = self.base.name, self.base.context
        refuse_impossible(generation, name, context, self._vocabulary, self._pass.token_bytes, self.limits)
        seed = generation.draw.seed
        row = Row(generation, on_step, Drawing(generation.draw, secrets.randbits(63) if seed is None else seed))
        with self._change:
            if not self.alive:
                raise RunError(f"the engine of {name} has ended ({self._ended or 'its thread is gone'}).")
            if self._deadline is not None:
                raise Full(f"the engine of {name} is being closed and takes no more requests.", 5.0)
            self._admission.line.add(row, self._retry_after())
        self.wake()
        return Ticket(self, row)

    def refuse(self, owner: str, ahead: int = 0, own_ahead: int = 0) -> None:
        """Raises Full where a request of `owner` would find no place now, however short it is: to be asked before
        work is spent on it. `ahead`: requests that are being prepared for this engine, `own_ahead` of them the owner's.
        """
        with self._change:
            taken_at_once = max(0, self.limits.rows - len(self._running) - self._admission.line.rows)
            ahead = max(0, ahead - taken_at_once)
            self._admission.line.refuse(owner, 1, self._retry_after(), ahead=ahead, own_ahead=min(ahead, own_ahead))

    def wake(self) -> None:
        """Let the engine look at what changed."""
        with self._change:
            self._changed = True
            self._change.notify()

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together that one request may reach."""
        return min(self.base.context, self.limits.held_bytes // self._pass.token_bytes)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._ended

    def counts(self) -> Counts:
        """How the engine stands."""
        adapters, adapter_bytes = self._shelf.counts()
        cache, line = self._sharing.cache, self._admission.line
        with self._change:
            return Counts(
                len(self._running), line.rows, line.tokens, len(cache) * BLOCK, cache.size, adapters, adapter_bytes,
                self._generated, self._read, self._reused,
            )  # fmt: skip

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let what is there end within `drain_seconds`, cancel the rest, and end the thread."""
        with self._change:
            self._deadline = time.monotonic() + drain_seconds
        self.wake()
        self._thread.join()
        self.grammars.close()

    def _retry_after(self) -> float:
        return min(LONGEST_RETRY, max(1.0, self._pace * (self._admission.line.rows + 1)))

    # The engine's thread.

    @torch.inference_mode()
    def _run(self) -> None:
        if self.base.parameters <= SMALL and self.base.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread alone
        try:
            while self._wait():
                self._turn()
            self._ended = "it was closed"
        except BaseException as error:
            self._ended = _said(error)
            raise
        finally:
            with self._change:
                left = [*self._running, *self._admission.line]
            for row in left:
                closed = self._ended == "it was closed"
                self._end(row, "cancelled" if closed else "error", f"the engine has ended ({self._ended}).")

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; false once it is time to end."""
        with self._change:
            while not (self._changed or self._running):
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and (left <= 0 or not self._admission.line.rows):
                    return False
                self._change.wait(left)
            self._changed = False
            return self._deadline is None or time.monotonic() < self._deadline

    def _turn(self) -> None:
        """One step."""
        with self._change:
            cancelled = [row for row in (*self._running, *self._admission.line) if row.cancelled]
        for row in cancelled:
            self._end(row, "cancelled")
        self._admit()
        if active := self._chosen():
            self._step(active)

    def _admit(self) -> None:
        """Let waiting rows begin as long as there is room."""
        while True:
            with self._change:
                if (found := self._admission.next(self._running)) is None:
                    return
                row, adapter = found
                self._running.append(row)
                same = [other for other in self._admission.line if other.generation.adapter == row.generation.adapter]
            if isinstance(adapter, Failed):
                for other in (row, *same):
                    self._end(other, "error", adapter.reason)
                continue
            row.adapter = adapter
            with self._concerning(row):
                if row.generation.constraint is not None:
                    row.matcher = row.generation.constraint.start()
                row.seat = self._pass.open(len(row.generation.prompt))
                self._sharing.name(row)

    def _chosen(self) -> list[tuple[Row, Work]]:
        """What the running rows do in this step: all that answer, and pieces of prompts, oldest first."""
        chosen: list[tuple[Row, Work]] = []
        room, being_made = self.limits.chunk, set[bytes]()
        for row in list(self._running):
            if row.answering:
                chosen.append((row, row.work(0)))
                continue
            if not row.read and not (room and self._begun(row, being_made)):
                continue
            being_made.update(row.names[row.kept :])
            if room:
                work = row.work(room)
                chosen.append((row, work))
                room -= len(work.ids)
        return chosen

    def _begun(self, row: Row, being_made: set[bytes]) -> bool:
        begun = False
        with self._concerning(row):
            begun = self._sharing.begin(row, being_made)
            self._reused += row.cached
        return begun

    def _step(self, active: list[tuple[Row, Work]]) -> None:
        try:
            logits, at = self._pass.forward([work for _, work in active]), 0
            behind: list[int] = []
            for row, work in active:
                at += work.wanted
                if work.asks:
                    behind.append(at - 1)
                if work.scores:
                    self._score(row, logits[at - work.wanted : at])
                if not work.answering:
                    row.read += len(work.ids)
                    self._read += len(work.ids)
                    self._sharing.keep_prompt(row)
            if asking := [row for row, work in active if work.asks]:
                self._draw(asking, logits if len(behind) == len(logits) else logits[behind])
        except Exception as error:  # whose fault it was cannot be told: all that took part end, the engine goes on
            for row, _ in active:
                if row.seat is not None:
                    self._end(row, "error", _said(error))

    def _score(self, row: Row, logits: torch.Tensor) -> None:
        """Tell a row what the model makes of the prompt that it reads."""
        with self._concerning(row):
            if (step := row.scored(logits)).prompt_logprobs:
                row.on_step(step)

    def _draw(self, asking: list[Row], logits: torch.Tensor) -> None:
        """The next token of each row."""
        masks: list[torch.Tensor | None] = [None] * len(asking)
        for place, row in enumerate(asking):
            if row.matcher is not None:
                with self._concerning(row):
                    masks[place] = row.matcher.allowed(row.generation.end_ids).to(logits.device)
        picked = pick(logits, [row.drawing for row in asking], masks)
        for row, one in zip(asking, picked, strict=True):
            if row.seat is not None:  # else it has just ended
                with self._concerning(row):
                    self._take(row, one)

    def _take(self, row: Row, picked: Picked | None) -> None:
        """Tell a row its token."""
        step = row.took(picked)
        self._generated += len(step.ids)
        if step.finish is None:
            row.on_step(step)
        else:
            self._finish(row, step)

    def _finish(self, row: Row, step: Step) -> None:
        """A reply that ended by itself."""
        self._sharing.keep_reply(row)
        now = time.monotonic()
        self._pace += 0.2 * (now - self._last_end - self._pace)
        self._last_end = now
        self._leave(row)
        with contextlib.suppress(Exception):  # it has had its reply
            row.on_step(step)

    def _end(self, row: Row, finish: Finish, error: str | None = None) -> None:
        """End a reply before its time."""
        self._leave(row)
        with contextlib.suppress(Exception):  # a listener that cannot hear its end harms nobody else
            row.on_step(Step(finish=finish, cached=row.cached, error=error if finish == "error" else None))

    def _leave(self, row: Row) -> None:
        with self._change:
            self._admission.line.remove(row)
            if row in self._running:
                self._running.remove(row)
            self._changed = True  # somebody may wait for the room
        if row.seat is not None:
            seat, row.seat = row.seat, None
            self._pass.close(seat)

    @contextlib.contextmanager
    def _concerning(self, row: Row):
        """What goes wrong inside is this row's end, and nobody else's."""
        try:
            yield
        except Exception as error:
            self._end(row, "error", _said(error))


def _pass_over(base: Base, dtype: torch.dtype | None) -> Pass:
    if isinstance(base.model, Decoder) and not is_quantized(base.model):
        return DecoderPass(base.model, base.context, dtype or getattr(torch, precision.for_answering(base)))
    return GeneralPass(base)


def _said(error: BaseException) -> str:
    """The error in words: weft's own say what to do, others begin with their kind."""
    return str(error) if isinstance(error, WeftError) else f"{type(error).__name__}: {error}"
