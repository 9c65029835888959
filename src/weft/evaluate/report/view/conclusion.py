"""The verdict, its evidence on an axis, and comparisons in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import words
from weft.evaluate.report.view.named import titles


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    found = report.get("verdict") or {}
    choice = str(found.get("choice") or "")
    title = words.CHOICES.get(choice, choice) or "No verdict yet."
    if choice == "prompt" and found.get("arm") == "zero-shot":
        title = "The base suffices as it is; do not fine-tune."
    costs = {arm: cost for arm, cost in (found.get("costs") or {}).items() if words.is_number(cost)}
    dearest = max(costs.values(), default=0) or 1
    named = titles(report)
    return {
        "choice": choice,
        "title": title,
        "reason": found.get("reason") or "",
        "evidence": evidence(found.get("comparison"), report),
        "would_change": found.get("would_change") or [],
        "costs": [
            {"title": named.get(arm, arm), "tokens": words.count(cost), "share": 100 * cost / dearest}
            for arm, cost in sorted(costs.items(), key=lambda pair: pair[1])
        ],
    }


def evidence(comparison: Mapping[str, Any] | None, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The decisive difference on an axis with zero in the middle: positions in percent of its width."""
    if not comparison or not words.is_number(comparison.get("difference")):
        return None
    low, high = (comparison.get(key) for key in ("low", "high"))
    middle = comparison["difference"]
    low, high = low if words.is_number(low) else middle, high if words.is_number(high) else middle
    metric = comparison.get("metric", "")
    # Log-loss and its kind may go beyond 1; shares end at 100 points.
    limit = next((step for step in (0.05, 0.1, 0.25, 0.5, 1) if max(abs(low), abs(high)) <= step), None)
    limit = limit or 1.1 * max(abs(low), abs(high))
    better = "better" if metric not in words.LOWER_IS_BETTER else "lower loss"
    right, left = (titles(report).get(arm, arm) for arm in comparison["arms"])
    if metric in words.LOWER_IS_BETTER:
        low, high, middle = -high, -low, -middle
    scale = "nats" if metric in words.LOWER_IS_BETTER else "points"
    places = (f"{limit:.2f}", 1) if scale == "nats" else (f"{100 * limit:.0f}", 100)
    return {
        "left": f"{left} {better}",
        "right": f"{right} {better}",
        "low": 50 + 50 * low / limit,
        "high": 50 + 50 * high / limit,
        "middle": 50 + 50 * middle / limit,
        "limit": f"{places[0]} {scale}",
        **compared(comparison, report),
    }


def towards(arm: str | None, comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison with `arm` first, where it is the second of the two."""
    first, second = comparison["arms"]
    if second != arm:
        return comparison
    low, high, middle = (comparison.get(key) for key in ("low", "high", "difference"))
    turned = {"difference": middle, "low": high, "high": low}
    return {
        **comparison,
        "arms": [second, first],
        **{key: -number if words.is_number(number) else number for key, number in turned.items()},
    }


def compared(comparison: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison in words."""
    named = titles(report)
    corrected = comparison.get("p_adjusted")
    return {
        "arms": [named.get(arm, arm) for arm in comparison["arms"]],
        "metric": words.metric_name(comparison.get("metric", "")),
        "difference": words.difference(comparison.get("metric", ""), comparison),
        "p": words.probability(comparison.get("p") if corrected is None else corrected),
        "corrected": corrected is not None,
        "test": comparison.get("test") or "",
        "n": words.plural(comparison.get("n"), "row"),
    }
