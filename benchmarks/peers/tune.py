"""The best setting of a peer on one cell: each arithmetic route, then one change after the other on the best so far.

A setting is refused where its first loss is not that of the truth (the first setting of the first peer: fp32, default
route), where it fails, or where it takes far longer than the best so far. What was tried is kept, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.cell import Cell
from benchmarks.peers.settings import Setting, changed, first, further
from weft.errors import RunError

GAIN = 0.98
"""A change is kept where it takes at most this share of the time: less is noise."""
LIMIT_SECONDS, LIMIT_TIMES = 180.0, 6.0
"""A try may take this long, or this many times the whole try of the best so far, whichever is more."""
COMPILE_SECONDS = 900.0
"""What is compiled may take this long."""
DEFAULT_SECONDS = 900.0
"""So may a peer's default setting: without it the cell has no truth, and it may be ten times as slow as the best."""
LOSS_ERROR = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest relative difference of the first loss; by the numbers of the setting, not of the table."""


@dataclass(frozen=True)
class Attempt:
    """What a setting showed: seconds per batch (CPU time where there is one thread), the losses of its first steps, and
    how long the whole try took."""

    seconds: float
    losses: tuple[float, ...]
    whole_seconds: float


Try = Callable[[Setting, float], Attempt]
"""Run a setting within a limit of seconds. Raises RunError where it fails, TimeoutError where it takes longer."""


@dataclass(frozen=True)
class Tuned:
    """The winner, and every setting that was tried: its name with seconds, or with why it is out."""

    setting: Setting
    tried: dict[str, Any]
    first_losses: tuple[float, ...]
    """Of the first setting that ran."""


def tune(peer: str, cell: Cell, attempt: Try, truth: float | None = None, *, compiling: bool = True) -> Tuned:
    """`truth`: the first loss that is right; None makes the default setting the truth.

    `compiling`: whether torch.compile is tried. Raises RunError where the default setting fails and is to be the truth,
    and where every route fails. One that asks for more memory than there is leaves the others to be tried.
    """
    tried: dict[str, Any] = {}
    best: tuple[float, Setting] | None = None
    longest = LIMIT_SECONDS
    default: tuple[float, ...] = ()

    def look(setting: Setting) -> None:
        nonlocal best, longest, default, truth
        if str(setting) in tried:
            return
        limit = max(DEFAULT_SECONDS if best is None else COMPILE_SECONDS if setting.compiled else longest, longest)
        try:
            found = attempt(setting, limit)
        except (RunError, TimeoutError) as error:
            tried[str(setting)] = str(error)
            return
        default = default or found.losses
        truth = found.losses[0] if truth is None else truth
        if setting.batching != "packed" and not _same(found.losses[0], truth, setting):
            tried[str(setting)] = f"another loss: {found.losses[0]:.6f}, expected {truth:.6f}"
            return
        tried[str(setting)] = round(found.seconds, 4)
        if best is None or found.seconds < best[0] * GAIN:
            best = found.seconds, setting
            longest = max(LIMIT_SECONDS, LIMIT_TIMES * found.whole_seconds)

    for setting in first(cell):
        look(setting)
        if truth is None:
            raise RunError(f"{peer}, {cell}: the default setting failed: {tried[str(setting)]}")
    if best is None:
        told = "; ".join(f"{setting}: {why}" for setting, why in tried.items())
        raise RunError(f"{peer}, {cell}: no setting can be measured: {told}")
    for change in further(best[1], peer, cell, compiling=compiling):
        look(changed(best[1], change))
    return Tuned(best[1], tried, default)


def _same(loss: float, truth: float, setting: Setting) -> bool:
    return abs(loss - truth) <= LOSS_ERROR["fp32" if setting.numbers == "fp32" else "bf16"] * abs(truth)
