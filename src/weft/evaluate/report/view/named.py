"""What the sections share: titles of arms, the main metric, the chosen arm, bars, values as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import words


def titles(report: Mapping[str, Any]) -> dict[str, str]:
    """Arm name → its title."""
    return {arm["name"]: arm.get("title") or arm["name"] for arm in report.get("arms") or ()}


def main_metric(report: Mapping[str, Any]) -> str:
    """The task's metric, or the first that any arm has."""
    named = (report.get("task") or {}).get("metric")
    return named or next((name for arm in report.get("arms") or () for name in arm.get("metrics") or ()), "accuracy")


def chosen_arm(report: Mapping[str, Any]) -> str | None:
    """The arm that the verdict stands for."""
    found = report.get("verdict") or {}
    if "arm" in found:
        return found["arm"]
    return {"fine-tune": "tuned", "prompt": "prompted"}.get(str(found.get("choice")), found.get("choice"))


def bar(measured: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Value and interval of a share as positions from 0 to 100."""
    if not measured or not words.is_number(measured.get("value")):
        return None
    known = {key: measured[key] for key in ("low", "high", "value") if words.is_number(measured.get(key))}
    return {key: min(100.0, max(0.0, 100 * known.get(key, known["value"]))) for key in ("low", "high", "value")}


def written(value: Any, indent: int | None = None) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=indent, default=str)
