"""Structured answers, field by field.

Closed and copied fields must be equal; free fields are scored by chrF, since a sentence may be good in other words. An
answer that cannot be read as the expected form has nothing right: the program behind it could not read it either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.graders.chrf import chrf
from weft.graders.json_text import same_value
from weft.graders.line_shape import LineShape
from weft.graders.object_shape import ObjectShape

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Fields:
    """`accuracy`: all closed and copied fields right and no key invented; `fields.NAME`: each field alone.

    A field that is rightly left out counts as right. Without any closed or copied field there is no `accuracy`.
    """

    shape: ObjectShape | LineShape
    name = "fields"
    metric = "accuracy"

    def grade(self, answer: str, expected: str) -> dict[str, float]:
        ideal, found = self.shape.parse(expected), self.shape.parse(answer)
        if ideal is None:  # a row whose ideal answer breaks the form can only be matched as a whole
            right = float(answer.strip() == expected.strip())
            return self._scores(right, dict.fromkeys((field.name for field in self.shape.fields), right))
        if found is None:
            return self._scores(0.0, dict.fromkeys((field.name for field in self.shape.fields), 0.0))
        scores, right = {}, found.keys() <= ideal.keys() | {field.name for field in self.shape.fields}
        for field in self.shape.fields:
            value, wanted = found.get(field.name, _ABSENT), ideal.get(field.name, _ABSENT)
            if field.role == "free":
                scores[field.name] = _likeness(value, wanted)
            else:
                scores[field.name] = float(_equal(value, wanted))
                right = right and _equal(value, wanted)
        unknown = ideal.keys() - {field.name for field in self.shape.fields}
        right = right and all(_equal(found.get(key, _ABSENT), ideal[key]) for key in unknown)
        return self._scores(float(right), scores)

    def _scores(self, right: float, fields: dict[str, float]) -> dict[str, float]:
        exact = any(field.role != "free" for field in self.shape.fields)
        return ({"accuracy": right} if exact else {}) | {f"fields.{name}": score for name, score in fields.items()}


def _equal(value: Any, wanted: Any) -> bool:
    if value is _ABSENT or wanted is _ABSENT:
        return value is wanted
    return same_value(value, wanted)


def _likeness(value: Any, wanted: Any) -> float:
    if isinstance(value, str) and isinstance(wanted, str):
        return chrf(value, wanted)
    return float(_equal(value, wanted))
