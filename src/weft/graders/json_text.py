"""One JSON object and nothing else: the strict reading that shapes and graders share."""

from __future__ import annotations

import json
from typing import Any


def parse_object(text: str) -> dict[str, Any] | None:
    """The object in `text`, or None: text around it, a repeated key, NaN or a list is not one JSON object."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def kind_of(value: Any) -> str:
    """The JSON type in words: text, number, true/false, null, list, object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def same_value(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true is not 1; the order of keys does not matter, that of lists does."""
    if kind_of(a) != kind_of(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return a == b


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated key")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
