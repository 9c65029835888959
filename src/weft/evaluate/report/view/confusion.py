"""Which labels are taken for which: a matrix for few, the most mistaken pairs for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MATRIX_LABELS = 12
"""Up to this many labels the confusion is a matrix; above, a list of the most confused pairs."""
PAIRS = 12


def matrix(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts with the share of the row as heat (0 … 100); None with too many labels to read."""
    if not confusion or not confusion.get("labels") or len(confusion["labels"]) > MATRIX_LABELS:
        return None
    rows = []
    for at, (label, counts) in enumerate(zip(confusion["labels"], confusion["counts"], strict=True)):
        total = sum(counts) or 1
        cells = [{"count": c, "heat": round(100 * c / total), "right": i == at} for i, c in enumerate(counts)]
        rows.append({"label": label, "cells": cells})
    return {"labels": confusion["labels"], "rows": rows}


def pairs(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The pairs of labels that are mistaken most, where a matrix would be too large."""
    if not confusion or not confusion.get("labels") or len(confusion["labels"]) <= MATRIX_LABELS:
        return None
    found = mistaken(confusion)
    most = found[0]["count"] if found else 1
    return {
        "labels": len(confusion["labels"]),
        "kinds": len(found),
        "wrong": sum(pair["count"] for pair in found),
        "rows": [pair | {"share": 100 * pair["count"] / most} for pair in found[:PAIRS]],
    }


def mistaken(confusion: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Pairs of labels, expected and answered, by how often one was taken for the other; `of`: rows of the expected."""
    if not confusion or not confusion.get("labels"):
        return []
    labels = confusion["labels"]
    found = [
        {"expected": labels[i], "answered": labels[j], "count": count, "of": sum(row)}
        for i, row in enumerate(confusion["counts"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda pair: -pair["count"])
