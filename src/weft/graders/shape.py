"""The form of good answers, inferred from training answers alone: labels, a JSON object, fixed lines, or text.

The same shape judges format consistency and tells a prompted model what to do (`describe`). It says nothing about
whether an answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from weft.data.key_lines import common_keys
from weft.graders.field import Field
from weft.graders.json_text import parse_object
from weft.graders.label_shape import LabelShape, infer_labels
from weft.graders.line_shape import LineShape, infer_lines
from weft.graders.object_shape import ObjectShape, infer_objects
from weft.graders.text_shape import TextShape, infer_text
from weft.graders.vocabulary import is_closed

Shape: TypeAlias = LabelShape | ObjectShape | LineShape | TextShape
"""All have `matches(answer) -> bool`, `describe() -> str`, `form` and `to_json()`."""

STRUCTURED_SHARE = 0.9
_LABEL_CHARACTERS = 80
_LABEL_WORDS = 10
_MOST_RATINGS = 20
_NUMBER = re.compile(r"[-+]?[\d.,]*\d%?")


def infer_shape(outputs: Sequence[str], messages: Sequence[str] | None = None) -> Shape:
    """The shape of at least one output; `messages[i]`, when given, is the text that output i answers.

    JSON when 90 % of the outputs are JSON objects, lines when 90 % have the same `Key: value` lines, labels when few
    short outputs keep coming back, else text.
    """
    if object_share(outputs) >= STRUCTURED_SHARE:
        return infer_objects(outputs, messages)
    if line_share(outputs) >= STRUCTURED_SHARE:
        return infer_lines(outputs, messages)
    return infer_labels(outputs) if are_labels(outputs) else infer_text(outputs)


def object_share(outputs: Sequence[str]) -> float:
    """Share of outputs that are one JSON object."""
    return sum(parse_object(output) is not None for output in outputs) / len(outputs)


def line_share(outputs: Sequence[str]) -> float:
    """Share of outputs that have the most frequent sequence of `Key: value` lines."""
    return common_keys(outputs)[1] / len(outputs)


def are_labels(outputs: Sequence[str]) -> bool:
    """Whether the outputs are labels: short single lines, at least two of them, that keep coming back.

    More than twenty different numbers are results of a calculation or measurements, not labels, though they repeat.
    """
    texts = [output.strip() for output in outputs]
    kinds = set(texts)
    short = all(len(t) <= _LABEL_CHARACTERS and "\n" not in t and len(t.split()) <= _LABEL_WORDS for t in kinds)
    numbers = sum(_NUMBER.fullmatch(text) is not None for text in kinds)
    results = len(kinds) > _MOST_RATINGS and numbers >= STRUCTURED_SHARE * len(kinds)
    return short and len(kinds) > 1 and is_closed(texts) and not results


def shape_from_json(stored: dict[str, Any]) -> Shape:
    """The inverse of a shape's `to_json`. Raises ValueError for an unknown form."""
    values = {key: value for key, value in stored.items() if key != "form"}
    if stored["form"] == "label":
        return LabelShape(tuple(values["labels"]))
    if stored["form"] == "text":
        return TextShape(**values)
    fields = tuple(Field.from_json(field) for field in values.pop("fields", ()))
    if stored["form"] == "json":
        return ObjectShape(fields, **values)
    if stored["form"] == "lines":
        return LineShape(fields)
    raise ValueError(f"unknown form {stored['form']!r}: expected label, json, lines or text")
