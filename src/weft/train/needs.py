"""What training will need, worked out before it starts: memory, arithmetic and disk, from shapes and the rows.

The forward passes of the heaviest steps of an epoch are planted as training will plant them, and counted by
`models/plan.py`. Where they do not fit, they become smaller, then layers are computed again instead of kept, then the
training is refused. What happens when memory runs out all the same is in `fit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from weft.errors import ResourceError
from weft.forest.build import Forest, plant
from weft.forest.general import takes_forests
from weft.forest.logprobs import LOGITS
from weft.models import lora, memory
from weft.models.decoder import Decoder
from weft.models.flop import flop
from weft.models.load import Base
from weft.models.plan import Memory, weight_bytes
from weft.models.plan import memory as memory_of
from weft.models.shape import Learning, Pass, Shape
from weft.progress import Progress
from weft.records import Tokens
from weft.runs import Run
from weft.train import disk, torchrun
from weft.train.batches import MICRO_TOKENS, epoch_batches, families, micro_batches
from weft.train.crew import hands, shares
from weft.train.tuning_config import TuningConfig

LOOKED_AT = 8
"""Steps of an epoch that are planted: so many of the heaviest, and as many evenly from all."""
RESERVE = 0.05
"""Share of the free memory that is left alone."""
PLAN = "plan.json"

Example = Sequence[Tokens]
"""Rows that go through one forward pass together: one of sft, two of dpo, a pack of pretrain."""


@dataclass(frozen=True)
class Plan:
    """How a training fits into this machine."""

    micro_tokens: int
    """Most padded tokens of a forward pass; 1: each example has one of its own."""
    recompute: bool
    """Whether layers are computed again on the way back instead of being kept."""
    longest: int
    """Padded tokens of the longest example."""
    peak_bytes: int
    """Memory at the peak, with the loaded weights."""
    needed_bytes: int
    """Of that, what is not taken yet when the base is loaded."""
    free_bytes: int | None
    """What there was; None where the system does not say."""
    flop_per_step: int
    disk_bytes: int
    """Checkpoints at their most, and what is published."""
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """One line for the run's progress."""
        passes = f"{self.micro_tokens:,} tokens at once" if self.micro_tokens > 1 else "one example at once"
        again = ", layers computed again" if self.recompute else ""
        return (
            f"{self.peak_bytes / 1e9:.2f} GB of memory at the peak, {self.flop_per_step / 1e9:,.1f} GFLOP a step, "
            f"{self.disk_bytes / 1e6:,.1f} MB of disk; {passes}{again} ({self.why})"
        )


def require_memory(
    base: Base, rows: Sequence[Tokens], rows_per_step: int, config: TuningConfig, tokens: Sequence[int] = ()
) -> Plan:
    """The plan for steps of `rows_per_step` of `rows`; an example is as many neighbours as a step has per example.

    `tokens`: whose rows of the vocabulary learn beside the adapter.

    Raises ResourceError where not even one example with recomputed layers fits; UsageError where LoRA does not fit the
    model. The base is wrapped and unwrapped again: only the adapter itself knows how many numbers it trains.
    """
    each = max(1, rows_per_step // config.batch_size)
    return plan(base, [rows[i : i + each] for i in range(0, len(rows), each)], config, tokens)


def plan(base: Base, examples: Sequence[Example], config: TuningConfig, tokens: Sequence[int] = ()) -> Plan:
    """How training on `examples` fits into the memory that is free now. `config` must be settled, `base` unwrapped."""
    if not isinstance(base.model, Decoder):
        takes_forests(base.model)  # asked now, while nothing disturbs its answers: no noise, no dropout
    trained = _trained(base, config, tokens)
    count = 1 if config.full else hands(base.model, config.batch_size)
    steps = _steps(examples, config)
    shape = Shape.of(base.model.config, isinstance(base.model, Decoder))
    free = memory.free_bytes(base.device)
    room = None if free is None else int(free * (1 - RESERVE))
    wish = config.recompute
    longest = max(len(example) * max(len(row.ids) for row in example) for example in examples)

    kind = _learning(shape, base, config, trained, tokens)

    def needed(most: int, again: bool) -> tuple[Memory, int]:
        passes = [[_pass(base, part) for part in parts] for parts in _parted(base.model, steps, count, most)]
        learning = replace(kind, recompute=again)
        known = [
            memory_of(shape, learning, each, logits=LOGITS, several=len(parts) > count, hands=count)
            for parts in passes
            for each in parts
        ]
        every = [flop(shape, learning, each, logits=LOGITS) for parts in passes for each in parts]
        arithmetic = sum(every) // len(passes)
        return max(known, key=lambda one: one.beyond_weights), arithmetic

    sizes = [MICRO_TOKENS]
    while sizes[-1] > longest:
        sizes.append(sizes[-1] // 2)
    sizes.append(1)
    tries = [(size, again) for again in _ways(wish) for size in sizes]
    found = tries[-1]
    for found in tries:
        bytes_, arithmetic = needed(*found)
        if room is None or bytes_.beyond_weights <= room:
            published = 4 * (base.parameters if config.full else trained)
            return Plan(
                micro_tokens=found[0],
                recompute=found[1],
                longest=longest,
                peak_bytes=weight_bytes(shape, base.parameters, kind) + bytes_.beyond_weights,
                needed_bytes=bytes_.beyond_weights,
                free_bytes=free,
                flop_per_step=arithmetic,
                disk_bytes=disk.forecast(trained, published),
                why=_why(found, tries, wish),
            )
    raise _too_big(base, bytes_.beyond_weights, free or 0, trained, longest, wish, config.full)


def keep(run: Run, made: Plan, progress: Progress) -> Plan:
    """The plan that this run began with, or `made`, written down: a run that goes on computes what it would have.

    Raises ResourceError where checkpoints would not fit on the disk.
    """
    if run.has(PLAN):
        made = Plan(**run.read_json(PLAN))
    else:
        disk.require(run.folder, made.disk_bytes)
        run.write_json(PLAN, made.to_json())
        run.event("planned", **made.to_json())
    progress.say(f"    needs {made.in_words()}")
    return made


def shrink(run: Run, micro_tokens: int, recompute: bool) -> None:
    """Write down that memory held no more than this: a run that goes on begins so. A plan never grows.

    Processes that share a step may each find their own limit; the smallest counts.
    """
    known = Plan(**run.read_json(PLAN))
    fits = replace(
        known,
        micro_tokens=min(known.micro_tokens, micro_tokens),
        recompute=known.recompute or recompute,
        why="memory ran out with more",
    )
    run.write_json(PLAN, fits.to_json())
    run.event("memory ran out", micro_tokens=fits.micro_tokens, recompute=fits.recompute)


def _trained(base: Base, config: TuningConfig, tokens: Sequence[int]) -> int:
    if config.full:
        return base.parameters
    trained = sum(parameter.numel() for parameter in lora.wrap(base.model, config.lora, config.seed, tokens=tokens))
    lora.unwrap(base.model)
    return trained


def _learning(shape: Shape, base: Base, config: TuningConfig, trained: int, tokens: Sequence[int]) -> Learning:
    return Learning.of(
        shape, config.lora, full=config.full, precision=str(config.precision), exact=base.stored == "BF16",
        counted=trained, rows=len(tokens), quantized=base.quantize != "none", holders=torchrun.count(),
    )  # fmt: skip


def _steps(examples: Sequence[Example], config: TuningConfig) -> list[list[Example]]:
    """The heaviest steps of the first epoch, and some evenly from all."""
    lengths = [max(len(row.ids) for row in example) for example in examples]
    kin = families([example[0] for example in examples], config.batch_size)
    batches = epoch_batches(lengths, config.batch_size, config.seed, 0, kin)
    heavy = sorted(batches, key=lambda batch: -sum(lengths[i] * len(examples[i]) for i in batch))[:LOOKED_AT]
    even = batches[:: max(1, len(batches) // LOOKED_AT)][:LOOKED_AT]
    return [[examples[i] for i in batch] for batch in (*heavy, *even)]


def _parted(model: nn.Module, steps: Sequence[Sequence[Example]], count: int, most: int) -> list[list[list[Tokens]]]:
    """Per step the rows of each forward pass."""
    parted = []
    for step in steps:
        parts = []
        for share in shares([example[0] for example in step], count):
            for part in micro_batches(model, [step[i] for i in share], most, lambda example: example):
                parts.append([row for example in part for row in example])
        parted.append(parts)
    return parted


def _pass(base: Base, rows: Sequence[Tokens]) -> Pass:
    if isinstance(base.model, Decoder):
        return counted(plant(rows))
    width = max(len(row.ids) for row in rows)
    columns = len({place for row in rows for place, learned in enumerate(row.learn) if learned})
    cells = len(rows) * width * width
    return Pass(len(rows) * width, len(rows) * columns, cells, cells, cells)


def counted(forest: Forest) -> Pass:
    """What a forward pass over `forest` runs over."""
    keep = np.unique(forest.sources)
    cells = kept = widest = own = 0
    for node in forest.nodes:
        stop = node.start + node.length
        first, end = np.searchsorted(keep, (node.start, node.end))
        below = (node.end - stop) * node.length
        cells += node.length**2 + below
        kept += int(end - first) * node.length
        widest, own = max(widest, below), own + node.length**2
    return Pass(len(forest.ids), len(keep), cells, kept, max(widest, own))


def _ways(wish: str) -> tuple[bool, ...]:
    return {"always": (True,), "never": (False,)}.get(wish, (False, True))


def _why(found: tuple[int, bool], tries: Sequence[tuple[int, bool]], wish: str) -> str:
    if wish == "always":
        return "--recompute always"
    if found == tries[0]:
        return "all of it fits"
    if found[1]:
        return "not even one example fits with all layers kept"
    return f"{tries[0][0]:,} tokens at once do not fit"


def _too_big(base: Base, needed: int, free: int, trained: int, longest: int, wish: str, full: bool) -> ResourceError:
    again = ", or leave out --recompute never" if wish == "never" else ""
    return ResourceError(
        f"training {trained:,} parameters of {base.name} needs about {needed / 1e9:.2f} GB of memory beside the loaded "
        f"base, even one example at a time; {free / 1e9:.2f} GB are free. The longest example has {longest:,} tokens. "
        f"Lower --max-tokens{'' if full else ' or --lora-r'}{again}, {'leave out --full, ' if full else ''}choose a "
        "smaller base, close other programs, or raise the container's limit."
    )
