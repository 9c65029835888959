"""Many prompts answered at once: weft's batched engine beside transformers' own `generate`, on the same weights.

Same prompts, same greedy tokens (compared before anything is timed), same weights, threads, attention (sdpa) and oneDNN
switch; contestants take turns A B C A B C. `generate` gets one left-padded batch; where the prompts share a beginning
there is also `generate + prefix`, which is given that beginning's cache, computed once, the best that its interface
allows. Timed is the whole call, from lists of ids to lists of ids. Left out: torch.compile, for either side.

    scripts/bench engine --json engine.json --docs
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

from benchmarks import machine, page
from weft.data.read import read
from weft.errors import RunError, UsageError, WeftError
from weft.generate.engine import Request, answer
from weft.generate.sampling_config import Sampling
from weft.models import precision
from weft.models.load import NANO, Base, load
from weft.records import Message
from weft.runs import write_whole

MESSAGES = Path("examples/tickets/tickets.jsonl")
SHARED = 256
"""Tokens of the shared system prompt, at least; a few more where its last word ends later."""
BATCHES = (16, 64)
FEWEST_ROUNDS = 5

Prompts = list[tuple[int, ...]]
Replies = list[list[int]]


@dataclass(frozen=True)
class Workload:
    """Prompts as token ids, how many tokens each reply may have, and which ids end it (none: all have full length)."""

    prompts: Prompts
    new_tokens: int
    ends: frozenset[int]

    @property
    def shared(self) -> int:
        """Tokens that all prompts begin with, at least one short of each."""
        most = min(map(len, self.prompts)) - 1
        low, high = min(self.prompts), max(self.prompts)
        return next((i for i in range(most) if low[i] != high[i]), most)


def by_weft(base: Base, work: Workload) -> Replies:
    """The contestant: weft's engine."""
    requests = [Request(prompt) for prompt in work.prompts]
    return [list(result.ids) for result in answer(base, requests, Sampling(max_tokens=work.new_tokens))]


def by_generate(peer: Base, work: Workload) -> Replies:
    """The peer: one left-padded batch."""
    return _generate(peer, work, shared=0)


def by_generate_with_prefix(peer: Base, work: Workload) -> Replies:
    """The peer with the shared beginning computed once; the padding stands between it and each row's own part."""
    return _generate(peer, work, shared=work.shared)


@torch.inference_mode()
def _generate(peer: Base, work: Workload, shared: int) -> Replies:
    model: Any = peer.model
    width = max(map(len, work.prompts))
    rows, mask = [], []
    for prompt in work.prompts:
        gap = width - len(prompt)
        rows.append([*prompt[:shared], *[0] * gap, *prompt[shared:]])
        mask.append([1] * shared + [0] * gap + [1] * (len(prompt) - shared))
    cache = DynamicCache(config=model.config)
    if shared:
        start = torch.tensor([work.prompts[0][:shared]], device=peer.device)
        model(input_ids=start, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(rows))
    output = model.generate(
        input_ids=torch.tensor(rows, device=peer.device),
        attention_mask=torch.tensor(mask, device=peer.device),
        past_key_values=cache,
        generation_config=GenerationConfig(
            max_new_tokens=work.new_tokens, do_sample=False, eos_token_id=sorted(work.ends) or None, pad_token_id=0
        ),
    )
    return [_until(row, work.ends) for row in output[:, width:].tolist()]


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    return ids[: next((place for place, id_ in enumerate(ids) if id_ in ends), len(ids))]


def workload(base: Base, batch: int, shared: bool, new_tokens: int, stop: bool) -> Workload:
    """Messages of the tickets example as chats; with a system prompt of SHARED tokens or more where `shared`."""
    texts = [example.question for example in read(MESSAGES).examples]
    if len(texts) <= batch:
        raise UsageError(f"{MESSAGES}: {len(texts)} messages; a batch of {batch} needs more.")
    system = (Message("system", _notes(base, texts[batch:])),) if shared else ()
    prompts = [tuple(base.chat.prompt((*system, Message("user", text)))) for text in texts[:batch]]
    longest = max(map(len, prompts)) + new_tokens
    if longest > base.context:
        raise UsageError(f"the longest row has {longest} tokens, the context of {base.name} is {base.context}.")
    return Workload(prompts, new_tokens, frozenset(base.chat.end_ids) if stop else frozenset())


def _notes(base: Base, texts: Sequence[str]) -> str:
    """A system prompt of other messages, just long enough for SHARED tokens."""
    words = ("Earlier messages, for your information: " + " ".join(texts)).split(" ")
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        system = Message("system", " ".join(words[:middle]))
        pair = [tuple(base.chat.prompt((system, Message("user", text)))) for text in ("a", "b")]
        if Workload(pair, 0, frozenset()).shared < SHARED:
            low = middle + 1
        else:
            high = middle
    return " ".join(words[:low])


def compared(base: Base, peer: Base, work: Workload, rounds: int) -> dict[str, Any]:
    """One row: every contestant's seconds, medians and tokens per second. Raises RunError where tokens differ."""
    contestants: dict[str, tuple[Callable[[Base, Workload], Replies], Base]] = {
        "weft": (by_weft, base), "generate": (by_generate, peer),
    }  # fmt: skip
    if work.shared >= SHARED:
        contestants["generate + prefix"] = by_generate_with_prefix, peer
    with _ends(base, peer, work.ends):
        replies = {name: run(model, work) for name, (run, model) in contestants.items()}
        for name, other in replies.items():
            _same(replies["weft"], other, name)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, (run, model) in contestants.items():
                started = time.perf_counter()
                run(model, work)
                seconds[name].append(time.perf_counter() - started)
    tokens = sum(map(len, replies["weft"]))
    return {
        "batch": len(work.prompts),
        "shared_prefix_tokens": work.shared,
        "prompt_tokens": sum(map(len, work.prompts)),
        "new_tokens": tokens,
        "contestants": {name: _summary(times, seconds["weft"], tokens) for name, times in seconds.items()},
    }


def _summary(times: list[float], ours: list[float], tokens: int) -> dict[str, Any]:
    """Medians; `ratio`: median time over weft's median, `ratios`: the same round by round."""
    median = statistics.median(times)
    return {
        "seconds": [round(value, 4) for value in times],
        "median_seconds": round(median, 4),
        "tokens_per_second": round(tokens / median, 1),
        "ratio": round(median / statistics.median(ours), 3),
        "ratios": [round(theirs / own, 3) for theirs, own in zip(times, ours, strict=True)],
    }


def _same(ours: Replies, theirs: Replies, name: str) -> None:
    for row, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        if left != right:
            place = next(
                (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
            )
            raise RunError(
                f"{name}: reply {row} differs from weft's at token {place} ({left[place : place + 3]} here, "
                f"{right[place : place + 3]} there); only equal replies are timed."
            )


class _ends:
    """For a while both sides end replies at these ids alone."""

    def __init__(self, base: Base, peer: Base, ends: frozenset[int]) -> None:
        self.base, self.peer, self.ends = base, peer, ends

    def __enter__(self) -> None:
        model: Any = self.peer.model
        self.before = self.base.chat.end_ids, model.generation_config
        self.base.chat.end_ids = self.ends
        # generate() fills what its own configuration leaves open from this one.
        model.generation_config = GenerationConfig(eos_token_id=sorted(self.ends) or None, pad_token_id=0)

    def __exit__(self, *_: object) -> None:
        model: Any = self.peer.model
        self.base.chat.end_ids, model.generation_config = self.before


def opened(name: str) -> tuple[Base, Base]:
    """The base as weft answers with it, and as a model of transformers."""
    return load(name, device="cpu"), load(name, device="cpu", compact=False)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    header = ["batch", "shared prefix", "new tokens", "contestant", "seconds", "tokens/s", "times weft's time (range)"]
    cells = [
        [
            str(row["batch"]),
            str(row["shared_prefix_tokens"]),
            f"{row['new_tokens']:,}",
            name,
            f"{one['median_seconds']:.3f}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['ratio']:.2f} ({min(one['ratios']):.2f} to {max(one['ratios']):.2f})" if name != "weft" else "1",
        ]
        for row in rows
        for name, one in row["contestants"].items()
    ]
    return page.table(header, cells)


def section(result: dict[str, Any]) -> str:
    """The part of docs/benchmarks.md."""
    about = (
        f"{result['base']}, {result['parameters']:,} parameters, {result['arithmetic']}, "
        f"{result['attention']} attention, {result['threads']} thread(s); "
        f"medians of {result['rounds']} rounds; {result['replies']}."
    )
    title = f"### {result['measured']}"
    return "\n\n".join(
        [title, f"`{result['command']}`", machine.in_words(result["machine"]), about, summary(result["rows"])]
    )


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench engine", description="Many prompts answered at once, beside `generate`."
    )
    parser.add_argument("--base", default=NANO, help="a base by name or folder (default: %(default)s)")
    parser.add_argument("--batch", type=int, action="append", help="rows at once (default: 16 and 64)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each reply (default: %(default)s)")
    parser.add_argument("--stop", action="store_true", help="replies end at the model's end token, as in an evaluation")
    parser.add_argument("--rounds", type=int, default=7, help=f"at least {FEWEST_ROUNDS} (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: as torch chooses)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    if given.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds {given.rounds}: fewer than {FEWEST_ROUNDS} say too little")
    return given


def _command(given: argparse.Namespace) -> str:
    words = ["scripts/bench engine", *(f"--batch {size}" for size in given.batch or ())]
    words += [f"--base {Path(given.base).name}" if given.base != NANO else ""]
    words += [f"--new-tokens {given.new_tokens}", "--stop" if given.stop else "", f"--rounds {given.rounds}"]
    words += [f"--threads {given.threads}" if given.threads else ""]
    return " ".join(word for word in words if word)


def bench(given: argparse.Namespace) -> dict[str, Any]:
    """Measure every workload; returns all figures with what they were measured on."""
    if given.threads:
        torch.set_num_threads(given.threads)
    about = machine.describe()
    route = precision.settle()
    base, peer = opened(given.base)
    rows = []
    for shared in (False, True):
        for batch in given.batch or BATCHES:
            print(f"== batch {batch}, {'shared' if shared else 'no'} system prompt", file=sys.stderr)
            rows.append(compared(base, peer, workload(base, batch, shared, given.new_tokens, given.stop), given.rounds))
    return {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(given),
        "machine": about,
        "base": base.architecture if given.base != NANO else base.name,
        "base_sha256": base.fingerprint,
        "parameters": base.parameters,
        "arithmetic": route,
        "attention": str(getattr(peer.model.config, "_attn_implementation", "unknown")),
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
        "replies": "replies end at the model's end token" if given.stop else "all replies have full length",
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `scripts/bench engine`."""
    given = _given(arguments)
    try:
        result = bench(given)
        print(summary(result["rows"]))
        if given.json:
            write_whole(given.json, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
        if given.docs:
            page.update("engine", section(result))
    except WeftError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
