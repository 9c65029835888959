"""The serving engine: one thread, replies that join and leave at any step, an adapter per row.

    submit → waiting line (`line.py`) → reads its prompt, a piece per step → answers, a token per step → leaves

A step (`stepping.py`) is one pass over the tokens of all running rows. What goes wrong with one row ends that row, told
as a step with `finish` "error" (`roster.py`); the others go on. Words, templates and stop strings are not known here:
ids in, ids out.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from weft.errors import RunError
from weft.generate.adapters import Shelf, room_of
from weft.generate.admission import Admission
from weft.generate.constrain import Grammars
from weft.generate.draw import Drawing
from weft.generate.general import GeneralPass
from weft.generate.passes import DecoderPass
from weft.generate.prefixes import BLOCK
from weft.generate.requests import Counts, Full, Generation, Limits, Step
from weft.generate.roster import Roster, in_words
from weft.generate.row import Row, refuse_impossible
from weft.generate.sharing import Sharing
from weft.generate.stepping import Stepping
from weft.generate.work import Pass
from weft.models import precision
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.models.quant import is_quantized
from weft.models.threads import SMALL


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
        self.grammars = Grammars(base.chat.tokenizer, base.vocabulary, base.chat.end_ids)
        """Makes the constraints of this base's replies."""
        self._sharing = Sharing(self._pass, self.limits.cache_bytes)
        self._shelf = Shelf(
            room_of(base.model), adapter_folder, self._pass.pack, self.limits.adapter_bytes, self.wake
        )  # fmt: skip
        self._roster = Roster(Admission(self.limits, self._shelf, self._pass.token_bytes), self._pass)
        self._stepping = Stepping(self._pass, self._sharing, self._roster, self.limits.chunk)
        self._deadline: float | None = None
        self._ended = ""
        self._thread = threading.Thread(target=self._run, name=f"weft-engine-{base.name}", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, generation: Generation, on_step: Callable[[Step], None]) -> Ticket:
        """Put a request in the line; `on_step` hears of it from the engine's thread and must not block.

        Raises UsageError where it cannot be served at all, Full where the line has no place, RunError where the engine
        has ended.
        """
        name, context = self.base.name, self.base.context
        refuse_impossible(generation, name, context, self.base.vocabulary, self._pass.token_bytes, self.limits)
        seed = generation.draw.seed
        row = Row(generation, on_step, Drawing(generation.draw, secrets.randbits(63) if seed is None else seed))
        roster = self._roster
        with roster.change:
            if not self.alive:
                raise RunError(f"the engine of {name} has ended ({self._ended or 'its thread is gone'}).")
            if self._deadline is not None:
                raise Full(f"the engine of {name} is being closed and takes no more requests.", 5.0)
            roster.line.add(row, roster.retry_after)
        self.wake()
        return Ticket(self, row)

    def refuse(self, owner: str, ahead: int = 0, own_ahead: int = 0) -> None:
        """Raises Full where a request of `owner` would find no place now, however short it is: to be asked before
        work is spent on it. `ahead`: requests that are being prepared for this engine, `own_ahead` of them the owner's.
        """
        roster = self._roster
        with roster.change:
            taken_at_once = max(0, self.limits.rows - len(roster.running) - roster.line.rows)
            ahead = max(0, ahead - taken_at_once)
            roster.line.refuse(owner, 1, roster.retry_after, ahead=ahead, own_ahead=min(ahead, own_ahead))

    def wake(self) -> None:
        """Let the engine look at what changed."""
        self._roster.wake()

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
        cache, line, done = self._sharing.cache, self._roster.line, self._stepping
        with self._roster.change:
            return Counts(
                len(self._roster.running), line.rows, line.tokens, len(cache) * BLOCK, cache.size, adapters,
                adapter_bytes, done.generated, done.read, done.reused,
            )  # fmt: skip

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let what is there end within `drain_seconds`, cancel the rest, and end the thread."""
        with self._roster.change:
            self._deadline = time.monotonic() + drain_seconds
        self.wake()
        self._thread.join()
        self.grammars.close()

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
            self._ended = in_words(error)
            raise
        finally:
            finish = "cancelled" if self._ended == "it was closed" else "error"
            for row in self._roster:
                self._roster.end(row, finish, f"the engine has ended ({self._ended}).")

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; false once it is time to end."""
        roster = self._roster
        with roster.change:
            while not (roster.changed or roster.running):
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and (left <= 0 or not roster.line.rows):
                    return False
                roster.change.wait(left)
            roster.changed = False
            return self._deadline is None or time.monotonic() < self._deadline

    def _turn(self) -> None:
        """One step."""
        for row in [row for row in self._roster if row.cancelled]:
            self._roster.end(row, "cancelled")
        self._admit()
        self._stepping.step()

    def _admit(self) -> None:
        """Let waiting rows begin as long as there is room."""
        while (found := self._roster.next()) is not None:
            row, adapter = found
            row.adapter = adapter
            with self._roster.concerning(row):
                if row.generation.constraint is not None:
                    row.matcher = row.generation.constraint.start()
                row.seat = self._pass.open(len(row.generation.prompt))
                self._sharing.name(row)


def _pass_over(base: Base, dtype: torch.dtype | None) -> Pass:
    if isinstance(base.model, Decoder) and not is_quantized(base.model):
        return DecoderPass(base.model, base.context, dtype or getattr(torch, precision.for_answering(base)))
    return GeneralPass(base)
