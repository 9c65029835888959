"""The form of free text: what nearly all training answers share, without looking at what they say.

A feature is required only when at least 95 % of the training answers have it; range features (lines, length) hold for
all of them, lengths with a margin of one half. Fewer than ten different answers show no habit, only ranges.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

_SHARED = 0.95
_MARGIN = 1.5
_FEWEST = 10
_MARKERS = {"-": r"- ", "*": r"\* ", "•": r"• ", "1.": r"\d+[.)] "}
_ENDINGS = ".!?…"


@dataclass(frozen=True, slots=True)
class TextShape:
    """Habits of free text; an empty value means that there is no such habit."""

    least_lines: int
    most_lines: int
    least_characters: int
    most_characters: int
    endings: str = ""
    """The characters that close nearly all answers, such as `.?`."""
    marker: str = ""
    """The list marker that nearly all answers use: `-`, `*`, `•` or `1.`."""
    opening: str = ""
    closing: str = ""
    form = "text"

    def matches(self, answer: str) -> bool:
        """Whether `answer` keeps all habits."""
        text = answer.strip()
        return (
            self.least_lines <= _count_lines(text) <= self.most_lines
            and self.least_characters <= len(text) <= self.most_characters
            and (not self.endings or text.endswith(tuple(self.endings)))
            and (not self.marker or _has_marker(text, self.marker))
            and " ".join(text.split()).startswith(self.opening)
            and " ".join(text.split()).endswith(self.closing)
        )

    def describe(self) -> str:
        """One or two sentences that a system prompt can use."""
        one = self.most_lines == 1
        lines = "one line" if one else f"{_span(self.least_lines, self.most_lines)} lines"
        habits = [
            f"begin with {json.dumps(self.opening, ensure_ascii=False)}" if self.opening else "",
            f"close with {json.dumps(self.closing, ensure_ascii=False)}" if self.closing else "",
            f'begin the items of a list with "{self.marker}"' if self.marker else "",
            f"end with {' or '.join(json.dumps(c, ensure_ascii=False) for c in self.endings)}"
            if self.endings and not self.closing
            else "",
        ]
        said = ", ".join(filter(None, habits))
        length = f"Answer in {lines} of text, at most {self.most_characters} characters."
        return f"{length} {said[:1].upper()}{said[1:]}." if said else length

    def to_json(self) -> dict[str, Any]:
        names = [name for name in self.__slots__ if name != "form"]
        return {"form": self.form, **{name: getattr(self, name) for name in names}}


def infer_text(outputs: Sequence[str]) -> TextShape:
    """The habits of at least one output."""
    texts = [output.strip() for output in outputs]
    lines = [_count_lines(text) for text in texts]
    sizes = [len(text) for text in texts]
    ranges = TextShape(min(lines), max(lines), int(min(sizes) / _MARGIN), round(max(sizes) * _MARGIN))
    if len(set(texts)) < _FEWEST:
        return ranges
    words = [text.split() for text in texts]
    return replace(
        ranges,
        endings=_endings(texts),
        marker=next((marker for marker in _MARKERS if _share(texts, marker) >= _SHARED), ""),
        opening=" ".join(_shared_start(words)),
        closing=" ".join(reversed(_shared_start([row[::-1] for row in words]))),
    )


def _endings(texts: Sequence[str]) -> str:
    last = Counter(text[-1:] for text in texts)
    used = {mark: last[mark] for mark in _ENDINGS if last[mark]}
    return "".join(used) if sum(used.values()) >= _SHARED * len(texts) else ""


def _share(texts: Sequence[str], marker: str) -> float:
    return sum(_has_marker(text, marker) for text in texts) / len(texts)


def _has_marker(text: str, marker: str) -> bool:
    return re.search(rf"^\s*{_MARKERS[marker]}", text, re.MULTILINE) is not None


def _shared_start(rows: Sequence[list[str]]) -> list[str]:
    """The longest sequence of first words that at least 95 % of the rows share."""
    start: list[str] = []
    agreeing = list(rows)
    while True:
        following = Counter(row[len(start)] for row in agreeing if len(row) > len(start))
        word, count = following.most_common(1)[0] if following else ("", 0)
        if count < _SHARED * len(rows):
            return start
        agreeing = [row for row in agreeing if len(row) > len(start) and row[len(start)] == word]
        start.append(word)


def _count_lines(text: str) -> int:
    return text.count("\n") + 1


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
