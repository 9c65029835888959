"""Answers of fixed lines such as `Category: refund`: their strict reading.

Category: refund          {"Category": "refund",
Order: 48213         ->    "Order": "48213"}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_LINE = re.compile(r"([^\W\d_][\w /()\-]{0,39}):(?:[ \t]+(.*))?")


def parse_lines(text: str) -> dict[str, str] | None:
    """Key and value of each line, in order; None when any line is not `Key: value` or a key comes twice."""
    found: dict[str, str] = {}
    for line in text.strip().split("\n"):
        match = _LINE.fullmatch(line.rstrip())
        if match is None or match[1] in found:
            return None
        found[match[1]] = (match[2] or "").strip()
    return found


def common_keys(outputs: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """The most frequent sequence of keys among outputs made of `Key: value` lines, and how many outputs have it."""
    counts = Counter(tuple(found) for output in outputs if (found := parse_lines(output)) is not None)
    return counts.most_common(1)[0] if counts else ((), 0)
