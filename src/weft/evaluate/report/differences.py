"""Where an answer departs from the expected one, word by word.

Library: difflib's SequenceMatcher. When almost nothing agrees, nothing is marked: a page full of marks shows less
than a plain one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LONGEST = 1200
"""Characters of an answer that are shown; what is left out is counted."""
LEAST_ALIKE = 0.3


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer: `same` as expected, `other` than expected, or `missing` (expected, and not there)."""

    kind: Literal["same", "other", "missing"]
    text: str


def shortened(text: str, longest: int = LONGEST) -> tuple[str, int]:
    """The beginning of a text, and how many characters were left out."""
    return (text, 0) if len(text) <= longest else (text[:longest], len(text) - longest)


def pieces(answer: str, expected: str) -> list[Piece]:
    """The answer cut where it stops or starts agreeing with `expected`; joined without `missing` it is the answer."""
    had, wanted = _words(answer), _words(expected)
    matcher = SequenceMatcher(None, wanted, had, autojunk=False)
    if not answer or answer == expected or matcher.ratio() < LEAST_ALIKE:
        return [Piece("same", answer)] if answer else []
    found: list[Piece] = []
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "equal":
            found.append(Piece("same", "".join(had[k:m])))
        elif k < m:
            found.append(Piece("other", "".join(had[k:m])))
        else:
            found.append(Piece("missing", "".join(wanted[i:j])))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
