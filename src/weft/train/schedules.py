"""Learning-rate schedules: pure functions of the step, from 0 to 1, to be multiplied by the peak rate.

Steps count from 0. Warm-up rises linearly and reaches 1 at step `warmup`. `wsd` (warm-up, stable, decay: Hu et al.
2024, arXiv:2404.06395) holds the peak, so that the length may be decided late, and falls linearly at the end.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["constant", "linear", "cosine", "wsd"]


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1)) if warmup > 0 else 1.0


def _part(step: int, start: int, end: int) -> float:
    """How far `step` is on the way from `start` to `end`, within 0…1."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))


def constant(step: int, *, warmup: int = 0) -> float:
    return _warm(step, warmup)


def linear(step: int, total: int, *, warmup: int = 0, final: float = 0.0) -> float:
    """Warm-up, then a straight line to `final` at step `total`."""
    return _warm(step, warmup) if step < warmup else 1.0 - (1.0 - final) * _part(step, warmup, total)


def cosine(step: int, total: int, *, warmup: int = 0, final: float = 0.0) -> float:
    """Warm-up, then half a cosine to `final` at step `total`."""
    if step < warmup:
        return _warm(step, warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * _part(step, warmup, total)))


def wsd(step: int, total: int, *, warmup: int = 0, decay: int = 0, final: float = 0.0) -> float:
    """Warm-up, the peak, then a straight line to `final` over the last `decay` steps."""
    if step < warmup:
        return _warm(step, warmup)
    return 1.0 - (1.0 - final) * _part(step, total - decay, total)


def rate(name: ScheduleName, step: int, total: int, *, warmup: int = 0, decay: int = 0, final: float = 0.0) -> float:
    """The schedule called `name` at `step`."""
    if name == "constant":
        return constant(step, warmup=warmup)
    if name == "linear":
        return linear(step, total, warmup=warmup, final=final)
    if name == "cosine":
        return cosine(step, total, warmup=warmup, final=final)
    return wsd(step, total, warmup=warmup, decay=decay, final=final)
