"""Many prompts in, replies out: a batch shares its common prefix, scores the expected answers and decodes together.

Each row is laid out as `prefix · suffix · expected answer · padding`. One pass over it needs no padding mask, since
everything that a row must not see lies to its right; decoding then goes on behind it with the answer and the padding
masked out. So a reply and the log-loss of the expected answer cost one prompt pass together.
Left out: adapters per row, admission while running, streaming to many (the server's engine).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from weft.errors import ModelError, UsageError
from weft.generate.cache import empty_cache
from weft.generate.sampling import pick
from weft.generate.sampling_config import Sampling
from weft.models.load import Base

ROWS = 128
TOKENS = 49_152
"""Largest batch, in rows and in tokens of prompt and answer."""
LOGITS = 64_000_000
"""Most logits held at once, as numbers."""
SHORTEST_PREFIX = 16
KEPT_SHARE = 0.75
"""Rows are copied together once no more than this share of them is still going on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer and, optionally, an answer to score under it. Both are token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The generated ids (end token left out), why they end, and the mean nats per token of the scored answer."""

    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    log_loss: float | None


@torch.inference_mode()
def answer(
    base: Base, requests: Sequence[Request], sampling: Sampling, on_done: Callable[[int], None] = lambda rows: None
) -> list[Result]:
    """Replies in the order of the requests. `on_done` hears how many more rows are finished.

    Raises UsageError where a prompt leaves no room for its answer in the base's context.
    """
    if not requests:
        return []
    _refuse_too_long(base, requests, sampling)
    prefix = _common_prefix([request.prompt for request in requests])
    cache = _prefill(base, prefix) if prefix else None
    results: dict[int, Result] = {}
    for rows in _batches(base, requests, sampling):
        chunk = [requests[row] for row in rows]
        results.update(zip(rows, _finished(base, chunk, sampling, len(prefix), cache), strict=True))
        on_done(len(rows))
    return [results[row] for row in range(len(requests))]


@torch.inference_mode()
def stream(base: Base, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """The ids of one reply as they come, end token left out."""
    request = Request(tuple(prompt))
    _refuse_too_long(base, [request], sampling)
    batch = _Batch(base, [request], sampling, 0, None)
    told = 0
    while True:
        yield from batch.generated[0][told:]
        told = len(batch.generated[0])
        if not batch.live:
            return
        batch.step()


def _finished(
    base: Base, chunk: Sequence[Request], sampling: Sampling, prefix: int, cache: Cache | None
) -> list[Result]:
    batch = _Batch(base, chunk, sampling, prefix, cache)
    if not _padding_shifts_window(base, chunk, sampling):
        while batch.live:
            batch.step()
        return batch.results()
    # A sliding window counts columns, padding included: such rows are scored and decoded alone, without padding.
    alone = _Batch(base, [Request(chunk[0].prompt)], sampling, prefix, cache)
    while alone.live:
        alone.step()
    return [replace(alone.results()[0], log_loss=batch.log_losses[0])]


class _Batch:
    """Rows that are decoded in step. Finished rows leave the tensors once they are a quarter of them."""

    def __init__(
        self, base: Base, requests: Sequence[Request], sampling: Sampling, prefix: int, cache: Cache | None
    ) -> None:
        self.base, self.sampling, self.requests = base, sampling, requests
        self.generated: list[list[int]] = [[] for _ in requests]
        self.reasons: list[Literal["stop", "length"]] = ["length"] * len(requests)
        self.rows = list(range(len(requests)))  # in the order of the tensors; finished ones stay for a while
        self.live = set(self.rows)
        self.generators = [torch.Generator().manual_seed(sampling.seed + row) for row in self.rows]
        self.cache = _expanded(cache, len(requests)) if cache is not None else empty_cache()
        self.log_losses: list[float | None] = [None] * len(requests)
        self._prompt_pass(prefix)

    def _prompt_pass(self, prefix: int) -> None:
        device = self.base.device
        rows = [list(request.prompt[prefix:] + request.answer) for request in self.requests]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        ends = torch.tensor([len(request.prompt) - prefix for request in self.requests], device=device)  # (B,)
        first = int(ends.min()) - 1
        positions = torch.arange(prefix, prefix + width, device=device).expand(len(rows), -1)
        keep = max(width - first, 1)
        logits = _forward(self.base, ids, positions, self.cache, None, keep)  # (B, keep, V), columns from `first`
        rows_index = torch.arange(len(rows), device=device)
        for row, request in enumerate(self.requests):
            if request.answer:
                start = int(ends[row]) - 1 - first
                targets = torch.tensor(request.answer, device=device)
                scores = logits[row, start : start + len(request.answer)].float().log_softmax(-1)
                self.log_losses[row] = -float(scores.gather(-1, targets[:, None]).mean())
        self.positions = ends + prefix
        self.mask = torch.ones(len(rows), prefix + width, dtype=torch.long, device=device)
        self.mask[:, prefix:] = torch.arange(width, device=device) < ends[:, None]
        self._take(logits[rows_index, ends - 1 - first])

    def step(self) -> None:
        """One more token for each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], -1)
        last = torch.tensor([self.generated[row][-1:] or [0] for row in self.rows], device=self.base.device)
        logits = _forward(self.base, last, self.positions[:, None], self.cache, self.mask, 1)
        self.positions = self.positions + 1
        self._take(logits[:, -1])

    def _take(self, logits: Tensor) -> None:
        """Append the picked tokens of live rows. logits (rows, V)."""
        picked = pick(logits, self.sampling, [self.generators[row] for row in self.rows]).tolist()
        for row, token in zip(self.rows, picked, strict=True):
            if row not in self.live:
                continue
            if token in self.base.chat.end_ids:
                self.reasons[row] = "stop"
                self.live.discard(row)
                continue
            self.generated[row].append(token)
            if len(self.generated[row]) >= self.sampling.max_tokens:
                self.live.discard(row)
        if self.live and len(self.live) <= KEPT_SHARE * len(self.rows):
            self._let_finished_rows_go()

    def _let_finished_rows_go(self) -> None:
        places = [place for place, row in enumerate(self.rows) if row in self.live]
        self.rows = [self.rows[place] for place in places]
        index = torch.tensor(places, device=self.base.device)
        self.positions, self.mask = self.positions[index], self.mask[index]
        self.cache.batch_select_indices(index)

    def results(self) -> list[Result]:
        return [
            Result(tuple(ids), reason, loss)
            for ids, reason, loss in zip(self.generated, self.reasons, self.log_losses, strict=True)
        ]


def _forward(base: Base, ids: Tensor, positions: Tensor, cache: Cache, mask: Tensor | None, keep: int) -> Tensor:
    """Logits of the last `keep` columns: ids (B, T) behind what the cache holds → (B, keep, V)."""
    output: Any = base.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    return output.logits


def _prefill(base: Base, prefix: tuple[int, ...]) -> Cache:
    cache = empty_cache()
    ids = torch.tensor([prefix], device=base.device)
    _forward(base, ids, torch.arange(len(prefix), device=base.device)[None], cache, None, 1)
    return cache


def _expanded(cache: Cache, rows: int) -> Cache:
    """The one-row cache for each of `rows` rows."""
    copy = empty_cache()
    for index, layer in enumerate(cache.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            raise ModelError(f"layer {index} keeps no keys and values: its prompt cannot be shared between rows.")
        copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
    return copy


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with, at least one token short of each; empty where sharing would not pay."""
    if len(prompts) < 2:
        return ()
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    length = next((i for i in range(most) if low[i] != high[i]), most)
    return low[:length] if length >= SHORTEST_PREFIX else ()


def _batches(base: Base, requests: Sequence[Request], sampling: Sampling) -> Iterator[list[int]]:
    """Rows of similar length together, within the limits on rows, tokens and logits."""
    order = sorted(range(len(requests)), key=lambda row: (len(requests[row].prompt), len(requests[row].answer), row))
    most = math.ceil(len(requests) / math.ceil(len(requests) / ROWS))  # even batches rather than a last one of one row
    vocabulary = base.model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    batch: list[int] = []
    for row in order:
        longest = max(len(requests[r].prompt) + len(requests[r].answer) for r in [*batch, row])
        spread = longest - min(len(requests[r].prompt) for r in [*batch, row]) + 1
        count = len(batch) + 1
        full = count > most or count * longest > TOKENS or count * spread * vocabulary > LOGITS
        if batch and (full or _padding_shifts_window(base, [requests[row]], sampling)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padding_shifts_window(base: Base, requests: Sequence[Request], sampling: Sampling) -> bool:
    """Whether a row is longer than the base's sliding attention window, where it has one."""
    config = base.model.config
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return False
    return any(len(request.prompt) + len(request.answer) + sampling.max_tokens > window for request in requests)


def _refuse_too_long(base: Base, requests: Sequence[Request], sampling: Sampling) -> None:
    for number, request in enumerate(requests, 1):
        needed = len(request.prompt) + max(sampling.max_tokens, len(request.answer))
        if needed > base.context:
            raise UsageError(
                f"request {number}: {len(request.prompt)} prompt tokens and up to {sampling.max_tokens} for the answer "
                f"exceed the context of {base.name} ({base.context}). Shorten the prompt or lower the answer's limit."
            )
