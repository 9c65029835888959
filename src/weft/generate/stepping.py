"""One step of the rows that run: who takes part → one pass over all of them → a token for each that asks for one.

Every row that answers takes part, and prompts are read in pieces, oldest first. What goes wrong with one row ends that
row; a pass that fails ends all that took part in it, for whose fault it was cannot be told.
"""

from __future__ import annotations

import torch

from weft.generate.draw import Picked, pick
from weft.generate.roster import Roster, in_words
from weft.generate.row import Row
from weft.generate.sharing import Sharing
from weft.generate.work import Pass, Work


class Stepping:
    """The steps of one engine. `chunk`: most prompt tokens of a step."""

    def __init__(self, owner: Pass, sharing: Sharing, roster: Roster, chunk: int) -> None:
        self._pass, self._sharing, self._roster, self._chunk = owner, sharing, roster, chunk
        self.generated = self.read = self.reused = 0
        """Tokens, as `Counts` has them."""

    def step(self) -> None:
        """Let the running rows go on by one pass; nothing where none can."""
        if not (active := self._chosen()):
            return
        try:
            self._heard(active, self._pass.forward([work for _, work in active]))
        except Exception as error:
            for row, _ in active:
                if row.seat is not None:
                    self._roster.end(row, "error", in_words(error))

    def _chosen(self) -> list[tuple[Row, Work]]:
        """What the running rows do in this step: all that answer, and pieces of prompts, oldest first."""
        chosen: list[tuple[Row, Work]] = []
        room, being_made = self._chunk, set[bytes]()
        for row in list(self._roster.running):
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
        with self._roster.concerning(row):
            begun = self._sharing.begin(row, being_made)
            self.reused += row.cached
        return begun

    def _heard(self, active: list[tuple[Row, Work]], logits: torch.Tensor) -> None:
        """Give each row what the pass found for it: logits (n, V), so many rows of each work as it wants."""
        at, behind = 0, list[int]()
        for row, work in active:
            at += work.wanted
            if work.asks:
                behind.append(at - 1)
            if work.scores:
                self._score(row, logits[at - work.wanted : at])
            if not work.answering:
                row.read += len(work.ids)
                self.read += len(work.ids)
                self._sharing.keep_prompt(row)
        if asking := [row for row, work in active if work.asks]:
            self._draw(asking, logits if len(behind) == len(logits) else logits[behind])

    def _score(self, row: Row, logits: torch.Tensor) -> None:
        """Tell a row what the model makes of the prompt that it reads."""
        with self._roster.concerning(row):
            if (step := row.scored(logits)).prompt_logprobs:
                row.on_step(step)

    def _draw(self, asking: list[Row], logits: torch.Tensor) -> None:
        """The next token of each row."""
        masks: list[torch.Tensor | None] = [None] * len(asking)
        for place, row in enumerate(asking):
            if row.matcher is not None:
                with self._roster.concerning(row):
                    masks[place] = row.matcher.allowed(row.generation.end_ids).to(logits.device)
        picked = pick(logits, [row.drawing for row in asking], masks)
        for row, one in zip(asking, picked, strict=True):
            if row.seat is not None:  # else it has just ended
                with self._roster.concerning(row):
                    self._take(row, one)

    def _take(self, row: Row, picked: Picked | None) -> None:
        """Tell a row its token."""
        step = row.took(picked)
        self.generated += len(step.ids)
        if step.finish is None:
            row.on_step(step)
        else:
            self._sharing.keep_reply(row)
            self._roster.finish(row, step)
