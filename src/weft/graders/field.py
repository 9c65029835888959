"""What the values of one field look like in the training answers.

A field is *closed* (a few values that keep coming back), *copied* (short, stands in the message or could) or *free* (a
sentence of its own, nearly different in each row, that may be worded in more than one good way).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from weft.graders.json_text import kind_of, same_value
from weft.graders.vocabulary import is_closed

Role = Literal["closed", "copied", "free"]
_SENTENCE_WORDS = 5
_MOST_OPTIONS = 100
_MOST_SENTENCES = 12  # more fixed sentences than this are not a vocabulary that a prompt could list


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a structured answer."""

    name: str
    role: Role
    kinds: tuple[str, ...]
    """JSON types seen: text, number, true/false, null, list, object."""
    options: tuple[Any, ...] = ()
    """All values seen apart from null, when `role` is closed."""
    required: bool = True
    verbatim: bool = False
    """Whether at least half of the values stand in their message letter by letter."""
    words: int = 0
    """The median length of a free field."""
    longest: int = 0
    """Characters of the longest text seen; 0 where none was."""

    def allows(self, value: Any) -> bool:
        """Whether a value has a known type and, in a closed field, is one of the options."""
        if kind_of(value) not in self.kinds:
            return False
        return value is None or not self.options or any(same_value(value, option) for option in self.options)

    def describe(self) -> str:
        """`"category" (one of "refund", "delivery")`."""
        return f'"{self.name}" ({self.describe_values()})'

    def describe_values(self) -> str:
        """What may stand in the field, for a prompt or a reader."""
        others = [kind for kind in self.kinds if kind != "null"]
        if self.options:
            words = "one of " + ", ".join(json.dumps(option, ensure_ascii=False) for option in self.options)
        elif self.role == "free":
            words = f"text in your own words, about {self.words} words"
        else:
            words = " or ".join(others) or "always"
            words += " copied from the message" if self.verbatim else ""
        words += " or null" if "null" in self.kinds and others else " null" if "null" in self.kinds else ""
        return words if self.required else words + ", may be left out"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role,
            "kinds": list(self.kinds),
            "options": list(self.options),
            "required": self.required,
            "verbatim": self.verbatim,
            "words": self.words,
            "longest": self.longest,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Field:
        """The inverse of `to_json`."""
        return cls(**{**stored, "kinds": tuple(stored["kinds"]), "options": tuple(stored["options"])})


def infer_field(name: str, values: Sequence[Any], messages: Sequence[str] | None, *, rows: int) -> Field:
    """The field from its values in the training answers.

    `messages[i]` is what value i answers (None: not known); `rows` counts all answers, with and without this field.
    """
    known = [(value, messages[i] if messages else "") for i, value in enumerate(values) if value is not None]
    scalars = [(value, message) for value, message in known if not isinstance(value, list | dict)]
    copied = sum(_stands_in(value, message) for value, message in scalars) / max(1, len(scalars))
    role: Role = "copied"
    options: tuple[Any, ...] = ()
    plain = len(scalars) == len(known) > 0
    keys = [json.dumps(value) for value, _ in scalars]
    words = round(median(len(str(value).split()) for value, _ in scalars)) if scalars else 0
    sentences = plain and words >= _SENTENCE_WORDS
    most = _MOST_SENTENCES if sentences else _MOST_OPTIONS
    if plain and copied < 0.9 and len(set(keys)) <= most and is_closed(keys, unseen=0.01, repeats=4):
        role, options = "closed", tuple(json.loads(key) for key in sorted(set(keys)))
    elif sentences and copied < 0.5:
        role = "free"
    return Field(
        name=name,
        role=role,
        kinds=tuple(sorted({kind_of(value) for value in values})),
        options=options,
        required=len(values) == rows,
        verbatim=role == "copied" and plain and copied >= 0.5,
        words=words if role == "free" else 0,
        longest=max((len(value) for value, _ in known if isinstance(value, str)), default=0),
    )


def _stands_in(value: Any, message: str) -> bool:
    return str(value).strip() != "" and str(value) in message
