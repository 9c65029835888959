"""The JSON schema of answers that are one JSON object, as the chat API's `response_format` takes it."""

from __future__ import annotations

from typing import Any

from weft.graders.field import Field
from weft.graders.object_shape import ObjectShape

ROOM, LEAST = 1.5, 32
"""A text may have so many times the characters of the longest one seen, and so many in any case. It needs an end: a
small model that repeats itself would find none."""
_TYPES = {"text": "string", "true/false": "boolean", "list": "array"}


def json_schema(shape: ObjectShape) -> dict[str, Any]:
    """The schema of these answers: keys in their order, the types seen, options where they are closed.

    Every JSON object that follows it is of the shape.
    """
    return {
        "type": "object",
        "properties": {field.name: _of_field(field) for field in shape.fields},
        "required": [field.name for field in shape.fields if field.required],
        "additionalProperties": False,
    }


def _of_field(field: Field) -> dict[str, Any]:
    if field.options:
        return {"enum": [*field.options, *([None] if "null" in field.kinds else [])]}
    types = [_TYPES.get(kind, kind) for kind in field.kinds]
    bound = {"maxLength": max(round(ROOM * field.longest), LEAST)} if "string" in types else {}
    return {"type": types[0] if len(types) == 1 else types, **bound}
