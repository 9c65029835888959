"""How numbers and names are written for people: the same in the page and in the terminal.

Shares are percentages with one decimal, scores such as chrF run from 0 to 100, log-loss is in nats, times and sizes
carry their units. Nothing here knows HTML or colour.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

THIN = "\u202f"
"""Narrow no-break space, between a number and its unit."""

DASH, MINUS = "\u2013", "\u2212"
NOTHING = DASH
"""Where nothing was measured."""

CHOICES = {
    "fine-tune": "Fine-tune.",
    "prompt": "Write a prompt; do not fine-tune.",
    "few-shot": "Show examples in the prompt; do not fine-tune.",
    "rag": "Retrieve documents; do not fine-tune.",
    "classical": "Use a classical classifier; no language model is needed.",
    "more-data": "Collect more examples first.",
    "none": "None of these.",
}
"""The verdict's choices, as a headline."""

NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "exact_match": "Exact match",
    "format_consistency": "Format consistency",
    "format_unaided": "Format unaided",
    "chrf": "chrF",
    "similarity": "Similarity",
    "log_loss": "Log-loss",
}
SCORES = frozenset({"chrf", "similarity", "rouge", "bleu"})
"""Metrics from 0 to 1 that are no share of anything: written from 0 to 100, without a percent sign."""
LOWER_IS_BETTER = frozenset({"log_loss", "perplexity"})


def metric_name(name: str) -> str:
    """`macro_f1` → `Macro-F1`; `fields.order_number` → `Field order_number`."""
    if name.startswith("fields."):
        return f"Field {name.removeprefix('fields.')}"
    return NAMES.get(name) or name.replace("_", " ").capitalize()


def unit(metric: str) -> str:
    """`%`, `of 100`, `nats`: what a value of the metric is counted in; empty where it has no unit."""
    if metric == "log_loss":
        return "nats"
    if metric in LOWER_IS_BETTER:
        return ""
    return "of 100" if metric in SCORES else "%"


def value(metric: str, number: Any) -> str:
    """`92.3 %`, `54.2` (chrF), `1.234 nats`; an en dash where nothing was measured."""
    if not is_number(number):
        return NOTHING
    if metric in LOWER_IS_BETTER:
        return f"{_signed(number, 3)}{THIN}nats" if metric == "log_loss" else _signed(number, 2)
    written = _signed(100 * number, 1)
    return written if metric in SCORES else f"{written}{THIN}%"


def interval(metric: str, measured: Mapping[str, Any] | None) -> str:
    """`92.3 % (86.1-96.0)`: value and 95 % interval of `{"value", "low", "high"}`."""
    if not measured or not is_number(measured.get("value")):
        return NOTHING
    limits = bounds(metric, measured)
    return value(metric, measured["value"]) + (f" ({limits})" if limits else "")


def bounds(metric: str, measured: Mapping[str, Any]) -> str:
    """`86.1-96.0`, with an en dash, or `to` where a sign would be mistaken for it. Empty where there are no bounds."""
    low, high = measured.get("low"), measured.get("high")
    if not (is_number(low) and is_number(high)):
        return ""
    scale, places = (1, 3) if metric in LOWER_IS_BETTER else (100, 1)
    between = " to " if min(low, high) < 0 else DASH
    return f"{_signed(scale * low, places)}{between}{_signed(scale * high, places)}"


def difference(metric: str, measured: Mapping[str, Any]) -> str:
    """`+21.4 points (12.0-30.1)`: a difference with its 95 % interval, in percentage points (or nats)."""
    number = measured.get("difference")
    if not is_number(number):
        return NOTHING
    scale, places, name = (1, 3, "nats") if metric in LOWER_IS_BETTER else (100, 1, "points")
    sign = "+" if round(scale * number, places) > 0 else ""
    limits = bounds(metric, measured)
    return f"{sign}{_signed(scale * number, places)}{THIN}{name}" + (f" ({limits})" if limits else "")


def probability(p: Any) -> str:
    """`p = 0.012`, `p < 0.001`."""
    if not is_number(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(number: Any) -> str:
    """`12,345`."""
    return f"{round(number):,}" if is_number(number) else NOTHING


def tokens(number: Any) -> str:
    """Tokens per request: whole above ten, one decimal below."""
    if not is_number(number):
        return NOTHING
    return f"{number:.1f}" if 0 < number < 10 else count(number)


def seconds(number: Any) -> str:
    """`38 ms`, `4.21 s`, `1 min 42 s`, `2 h 05 min`."""
    if not is_number(number):
        return NOTHING
    if number < 0.0005:
        return f"{1e6 * number:.0f}{THIN}µs"
    if number < 1:
        return f"{1000 * number:.1f}{THIN}ms" if number < 0.01 else f"{1000 * number:.0f}{THIN}ms"
    if number < 59.95:
        return f"{number:.2f}{THIN}s" if number < 10 else f"{number:.1f}{THIN}s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    return f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}min"


def moment(written: Any) -> str:
    """`2026-11-22T09:14:03+00:00` → `22 November 2026, 09:14 UTC`; what is no ISO time stays as it is."""
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return str(written or "")
    zone = f" {at.tzname()}" if at.tzinfo else ""
    return f"{at.day} {at:%B %Y, %H:%M}{zone}"


def plural(number: Any, noun: str) -> str:
    """`1 row`, `640 rows`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def is_number(number: Any) -> TypeGuard[float]:
    """A finite number (JSON written elsewhere may hold null or NaN)."""
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def plain(text: Any) -> str:
    """Text from data with control characters and direction overrides made visible, so that it can neither move a
    terminal's cursor nor turn a line of the page around. Newlines and tabs stay."""
    return "".join(character if _harmless(character) else "\ufffd" for character in str(text))


def _harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    if character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        return False
    return unicodedata.category(character) not in ("Cc", "Cs")


def _signed(number: float, places: int) -> str:
    """With a real minus sign, and never a negative zero."""
    written = f"{abs(number):.{places}f}"
    return f"{MINUS}{written}" if number < 0 and float(written) != 0 else written
