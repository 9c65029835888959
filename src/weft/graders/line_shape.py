"""The form of answers that are fixed lines, `Key: value`: the same keys in the same order, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.data.key_lines import common_keys, parse_lines
from weft.graders.field import Field, infer_field


@dataclass(frozen=True, slots=True)
class LineShape:
    """Lines `Key: value`, always the same keys."""

    fields: tuple[Field, ...]
    form = "lines"

    def parse(self, answer: str) -> dict[str, Any] | None:
        return parse_lines(answer)

    def matches(self, answer: str) -> bool:
        """Whether `answer` has exactly these lines in this order, with known values in closed fields."""
        found = parse_lines(answer)
        if found is None or list(found) != [field.name for field in self.fields]:
            return False
        return all(field.allows(found[field.name]) for field in self.fields)

    def describe(self) -> str:
        """One sentence that a system prompt can use."""
        lines = "; ".join(f"{field.name}: ({field.describe_values()})" for field in self.fields)
        count = len(self.fields)
        return f"Answer with exactly {count} line{'s' * (count > 1)} and nothing else, in this form: {lines}."

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "fields": [field.to_json() for field in self.fields]}


def infer_lines(outputs: Sequence[str], messages: Sequence[str] | None = None) -> LineShape:
    """The shape of the outputs that have the most frequent keys; every one of them matches it."""
    keys, _ = common_keys(outputs)
    found = [(p, i) for i, output in enumerate(outputs) if (p := parse_lines(output)) is not None and tuple(p) == keys]
    asked = [messages[i] for _, i in found] if messages else None
    return LineShape(tuple(infer_field(key, [p[key] for p, _ in found], asked, rows=len(found)) for key in keys))
