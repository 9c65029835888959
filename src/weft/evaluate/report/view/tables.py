"""The table of arms and that of fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import words
from weft.evaluate.report.view.named import bar, chosen_arm, main_metric, titles, written

HELD = (
    "All answers were held to the JSON schema of the training answers (structured outputs). Unaided: those that keep "
    "the form although nothing was forbidden to them."
)
"""What an arm's figures are where its answers were held to a form."""


def arms(report: Mapping[str, Any]) -> dict[str, Any]:
    """The table's columns and rows: the main metric first, per-field metrics left to their own table."""
    measured = report.get("arms") or ()
    main = main_metric(report)
    names = {main: None} | {name: None for arm in measured for name in arm.get("metrics") or ()}
    columns = [name for name in names if not name.startswith("fields.")]
    chosen = chosen_arm(report)
    return {
        "columns": [words.metric_name(name) for name in columns],
        "n": next((arm.get("n") for arm in measured), None),
        "split": next((arm.get("split") for arm in measured), "test"),
        "rows": [
            {
                "name": arm["name"],
                "title": arm.get("title") or arm["name"],
                "chosen": arm["name"] == chosen,
                "cells": [
                    {
                        "column": words.metric_name(name),
                        "value": words.value(name, (arm.get("metrics") or {}).get(name, {}).get("value")),
                        "bounds": words.bounds(name, (arm.get("metrics") or {}).get(name, {})),
                        "bar": bar((arm.get("metrics") or {}).get(name)) if name not in words.LOWER_IS_BETTER else None,
                        "main": name == main,
                    }
                    for name in columns
                ],
                "tokens": words.tokens(arm.get("tokens_per_request")),
                "seconds": words.seconds(arm.get("seconds_per_request")),
                "details": described(arm.get("details") or {}),
            }
            for arm in measured
        ],
        "control": _control(main, (report.get("verdict") or {}).get("control")),
        "held": HELD if report.get("schema") else "",
    }


def _control(metric: str, measured: Mapping[str, Any] | None) -> str:
    return words.interval(metric, measured) if measured else ""


def described(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an arm was, entry by entry: short values on a line, long texts and lists in a block of their own."""
    found = []
    for key, value in details.items():
        if value is None or value == "" or value == []:
            continue
        text = value if isinstance(value, str) else written(value, indent=2)
        found.append({"key": key.replace("_", " "), "text": text, "block": len(text) > 60 or "\n" in text})
    return found


def fields(report: Mapping[str, Any]) -> dict[str, Any] | None:
    table = report.get("fields")
    if not table:
        return None
    present = {arm: None for row in table for arm in row.get("arms") or {}}
    named = titles(report)
    return {
        "arms": [named.get(arm, arm) for arm in present],
        "rows": [
            {
                "field": row["field"],
                "cells": [
                    {
                        "arm": named.get(arm, arm),
                        "value": words.value("accuracy", (row["arms"].get(arm) or {}).get("value")),
                        "bounds": words.bounds("accuracy", row["arms"].get(arm) or {}),
                        "bar": bar(row["arms"].get(arm)),
                        "main": False,
                    }
                    for arm in present
                ],
            }
            for row in table
        ],
    }
