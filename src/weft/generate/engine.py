"""Many prompts in, replies out, from the rows and passes that serving has: seats, steps and drawing are the same.

Rows are read in groups that begin alike, what all begin with once for all, and expected answers are scored in the same
pass. Then every step gives each row a token; where enough have ended, the next group is read. Errors end the whole.
Left out: adapters per row, requests that come and go, other threads (`continuous.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from weft.errors import UsageError
from weft.forest.build import MIN_SAVED, agreed
from weft.generate.draw import Drawing, Picked, pick
from weft.generate.general import GeneralPass
from weft.generate.plain import PlainPass
from weft.generate.requests import Draw, Generation, Step
from weft.generate.row import Row
from weft.generate.sampling_config import Sampling
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.records import Tokens

if TYPE_CHECKING:
    from weft.generate.constrain import Constraint

ROWS = 128
"""Most rows that go on together; others are read once no more than half of them are left."""
READ = 8192
"""Most tokens that are read in one pass; what rows share counts once. One row may be longer."""
HELD = 512 * 2**20
"""Bytes of keys and values that the rows may come to at their longest. One row may be larger."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer and, optionally, an answer to score under it. Both are token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()
    constraint: Constraint | None = None
    """What the reply must look like."""


@dataclass(frozen=True, slots=True)
class Result:
    """The generated ids (end token left out), why they end, and the mean nats per token of the scored answer."""

    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    log_loss: float | None
    unaided: bool = True
    """Whether the model alone would have replied the same, token by token: no constraint changed anything. Known of
    replies that are not drawn at random; of others it is said where there was no constraint."""


@torch.inference_mode()
def answer(
    base: Base, requests: Sequence[Request], sampling: Sampling, on_done: Callable[[int], None] = lambda rows: None
) -> list[Result]:
    """Replies in the order of the requests. `on_done` hears how many more rows are finished.

    Raises UsageError where a prompt leaves no room for its answer in the base's context.
    """
    answering = _Answering(base, requests, sampling)
    ids: list[list[int]] = [[] for _ in requests]
    reasons: list[Literal["stop", "length"]] = ["length"] * len(requests)
    for number, step in answering.steps():
        ids[number] += step.ids
        if step.finish:
            reasons[number] = "stop" if step.finish == "stop" else "length"
            on_done(1)
    told = zip(ids, reasons, answering.log_losses, answering.unaided, strict=True)
    return [Result(tuple(own), reason, log_loss, unaided) for own, reason, log_loss, unaided in told]


@torch.inference_mode()
def stream(
    base: Base, prompt: Sequence[int], sampling: Sampling, constraint: Constraint | None = None
) -> Iterator[int]:
    """The ids of one reply as they come, end token left out."""
    for _, step in _Answering(base, [Request(tuple(prompt), constraint=constraint)], sampling).steps():
        yield from step.ids


class _Answering:
    """Requests on their way through a base. Each draws with a seed of its own, so batch mates change nothing."""

    def __init__(self, base: Base, requests: Sequence[Request], sampling: Sampling) -> None:
        _refuse_too_long(base, requests, sampling)
        self._requests = requests
        self._rows = [_row(base, request, sampling, number) for number, request in enumerate(requests)]
        reach = max((row.reach for row in self._rows), default=0)
        self._pass = PlainPass(base) if isinstance(base.model, Decoder) else GeneralPass(base, reach)
        # Neighbours in this order begin alike.
        order = sorted(range(len(requests)), key=lambda number: requests[number].prompt)
        self._shared = _shared([requests[number].prompt for number in (order[:1] + order[-1:])], len(requests))
        self._waiting, self._running = order[::-1], list[int]()
        self.log_losses: list[float | None] = [None] * len(requests)
        self.unaided = [request.constraint is None or sampling.temperature == 0 for request in requests]

    def steps(self) -> Iterator[tuple[int, Step]]:
        """(number of the request, what it hears), until all are answered."""
        while self._waiting or self._running:
            if group := self._group():
                yield from self._taken(group, self._read(group))
            else:
                running = list(self._running)
                yield from self._taken(running, self._pass.forward([self._rows[n].work(0) for n in running]))

    def _group(self) -> list[int]:
        """Requests to be read now: as many as there is room for, none while most rows still go on."""
        group: list[int] = []
        tokens, held = 0, sum(self._rows[number].reach for number in self._running)
        while self._waiting and len(self._running) <= ROWS // 2 and len(self._running) + len(group) < ROWS:
            number = self._waiting[-1]
            request, reach = self._requests[number], self._rows[number].reach
            known = agreed(self._requests[group[-1]].prompt, request.prompt) if group else self._shared
            tokens += len(request.prompt) + len(request.answer) - known
            held += reach
            too_large = held * self._pass.token_bytes > HELD and (group or self._running)
            if too_large or (tokens > READ and group):
                break
            group.append(self._waiting.pop())
        return group

    def _read(self, group: list[int]) -> Tensor:
        """Logits (rows, V) behind the prompts of these requests."""
        chosen = [self._requests[number] for number in group]
        rows = [_scored(request) for request in chosen]
        read = self._pass.read(rows, [len(request.prompt) for request in chosen], self._shared)
        for number, one in zip(group, read, strict=True):
            self._rows[number].seat, self.log_losses[number] = one.seat, one.log_loss
        self._running += group
        return torch.stack([one.logits for one in read])

    def _taken(self, numbers: list[int], logits: Tensor) -> Iterator[tuple[int, Step]]:
        """The next token of each row."""
        for number, picked in zip(numbers, self._picked(numbers, logits), strict=True):
            step = self._rows[number].took(picked)
            if step.finish:
                self._pass.close(self._rows[number].seat)
                self._running.remove(number)
            yield number, step

    def _picked(self, numbers: list[int], logits: Tensor) -> list[Picked | None]:
        """The next token of each row, of its form. Where nothing is left to chance, the model's own token is asked for
        first: it mostly is allowed, and to ask so is much cheaper than for all tokens that would be."""
        rows = [self._rows[number] for number in numbers]
        bound = [i for i, row in enumerate(rows) if row.matcher is not None]
        drawings = [row.drawing for row in rows]
        if not bound:
            return pick(logits, drawings)
        if rows[0].drawing.draw.temperature > 0:
            return pick(logits, drawings, [_allowed(row, logits.device) for row in rows])
        picked = pick(logits, drawings)
        if changed := [i for i in bound if not _takes(rows[i], picked[i])]:
            allowed = [_allowed(rows[i], logits.device) for i in changed]
            for i, one in zip(changed, pick(logits[changed], [drawings[i] for i in changed], allowed), strict=True):
                picked[i] = one
                self.unaided[numbers[i]] = False
        return picked


def _takes(row: Row, picked: Picked | None) -> bool:
    """Whether the row's form allows this token."""
    return picked is None or row.matcher is None or row.matcher.takes(picked.token, row.generation.end_ids)


def _allowed(row: Row, device: torch.device) -> Tensor | None:
    """(V,) what may come next in the row; None where everything may."""
    return None if row.matcher is None else row.matcher.allowed(row.generation.end_ids).to(device)


def _row(base: Base, request: Request, sampling: Sampling, number: int) -> Row:
    draw = Draw(sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed + number)
    generation = Generation(request.prompt, draw, end_ids=frozenset(base.chat.end_ids), constraint=request.constraint)
    row = Row(generation, lambda step: None, Drawing(draw, sampling.seed + number), read=len(request.prompt))
    if request.constraint is not None:
        row.matcher, row.asks_end = request.constraint.start(), True
    return row


def _scored(request: Request) -> Tokens:
    learn = (False,) * len(request.prompt) + (True,) * len(request.answer)
    return Tokens(request.prompt + request.answer, learn)


def _shared(ends: Sequence[tuple[int, ...]], count: int) -> int:
    """How many tokens all prompts begin with, of which these are the first and the last; 0 where it is not worth it."""
    length = min(agreed(ends[0], ends[-1]), *(len(prompt) - 1 for prompt in ends)) if count > 1 else 0
    return length if length >= MIN_SAVED else 0


def _refuse_too_long(base: Base, requests: Sequence[Request], sampling: Sampling) -> None:
    for number, request in enumerate(requests, 1):
        needed = len(request.prompt) + max(sampling.max_tokens, len(request.answer))
        if needed > base.context:
            raise UsageError(
                f"request {number}: {len(request.prompt)} prompt tokens and up to {sampling.max_tokens} for the answer "
                f"exceed the context of {base.name} ({base.context}). Shorten the prompt or lower the answer's limit."
            )
