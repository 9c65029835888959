"""The form of answers that are one JSON object: keys, their order, the type of each, and closed vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.graders.field import Field, infer_field
from weft.graders.json_text import parse_object


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """One JSON object; white space inside it is not judged."""

    fields: tuple[Field, ...]
    """In the order of the training answers."""
    ordered: bool = True
    """Whether the training answers all keep that order; then answers must."""
    form = "json"

    def parse(self, answer: str) -> dict[str, Any] | None:
        return parse_object(answer)

    def matches(self, answer: str) -> bool:
        """Whether `answer` is one JSON object with the right keys, types and options, and no text around it."""
        found = parse_object(answer)
        if found is None:
            return False
        known = {field.name: field for field in self.fields}
        if not all(name in known and known[name].allows(value) for name, value in found.items()):
            return False
        if any(field.required and field.name not in found for field in self.fields):
            return False
        return not self.ordered or list(found) == [name for name in known if name in found]

    def describe(self) -> str:
        """One sentence that a system prompt can use."""
        if not self.fields:
            return "Answer with one JSON object and nothing else."
        exactly = "exactly the keys" if all(field.required for field in self.fields) else "only the keys"
        keys = ", ".join(field.describe() for field in self.fields)
        order = " in this order" if self.ordered and len(self.fields) > 1 else ""
        return f"Answer with one JSON object and nothing else, with {exactly} {keys}{order}."

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "fields": [field.to_json() for field in self.fields], "ordered": self.ordered}


def infer_objects(outputs: Sequence[str], messages: Sequence[str] | None = None) -> ObjectShape:
    """The shape of those outputs that are JSON objects; every one of them matches it."""
    found = [(parsed, i) for i, output in enumerate(outputs) if (parsed := parse_object(output)) is not None]
    order, ordered = _common_order([list(parsed) for parsed, _ in found])
    fields = []
    for name in order:
        having = [(parsed[name], i) for parsed, i in found if name in parsed]
        asked = [messages[i] for _, i in having] if messages else None
        fields.append(infer_field(name, [value for value, _ in having], asked, rows=len(found)))
    return ObjectShape(tuple(fields), ordered)


def _common_order(rows: Sequence[list[str]]) -> tuple[list[str], bool]:
    """One order of all keys, and whether every row keeps it: keys sorted by what precedes them in any row."""
    seen = {key: None for row in sorted(rows, key=len, reverse=True) for key in row}
    after: dict[str, set[str]] = {key: set() for key in seen}
    for row in {tuple(row) for row in rows}:
        for i, key in enumerate(row):
            after[key].update(row[:i])
    order: list[str] = []
    while len(order) < len(seen):
        ready = next((key for key in seen if key not in order and after[key] <= set(order)), None)
        if ready is None:
            return list(seen), False
        order.append(ready)
    return order, True
