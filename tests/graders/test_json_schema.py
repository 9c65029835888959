"""The schema of JSON answers: what follows it is of the answers' shape, by another reader of schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.graders.json_schema import json_schema
from weft.graders.object_shape import infer_objects

KINDS = ["open", "done", "lost"]


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Closed, copied and free fields, of all types; one is left out at times and one is null at times."""
    return [
        {
            "state": KINDS[n % 3],
            "name": f"thing {n * n}",
            "size": n / 4,
            "good": n % 2 == 0,
            "tags": ["a"] * (n % 4),
            **({"note": None if n % 5 else f"a sentence of some six words, {n}"} if n % 7 else {}),
        }
        for n in range(count)
    ]


SHAPE = infer_objects([json.dumps(row) for row in rows()])
SCHEMA = json_schema(SHAPE)


def test_the_schema_says_what_the_answers_show() -> None:
    assert SCHEMA == {
        "type": "object",
        "properties": {
            "state": {"enum": ["done", "lost", "open"]},
            "name": {"type": "string", "maxLength": 32},
            "size": {"type": "number"},
            "good": {"enum": [False, True]},
            "tags": {"type": "array"},
            "note": {"type": ["null", "string"], "maxLength": 48},
        },
        "required": ["state", "name", "size", "good", "tags"],
        "additionalProperties": False,
    }


def test_every_training_answer_follows_it_and_what_breaks_the_shape_does_not() -> None:
    validator = pytest.importorskip("jsonschema_rs").validator_for(SCHEMA)
    good = rows()
    assert all(validator.is_valid(row) and SHAPE.matches(json.dumps(row)) for row in good)
    for change in ({"state": "new"}, {"size": "1"}, {"good": None}, {"more": 1}, {"name": None}, {"tags": {}}):
        bad = {**good[1], **change}
        assert not validator.is_valid(bad) and not SHAPE.matches(json.dumps(bad))
    for key in SCHEMA["required"]:
        bad = {name: value for name, value in good[1].items() if name != key}
        assert not validator.is_valid(bad) and not SHAPE.matches(json.dumps(bad))


def test_a_text_may_be_half_as_long_again_as_the_longest_and_no_longer() -> None:
    texts = [f"{n} " + "word " * 20 for n in range(40)]
    (field,) = json_schema(infer_objects([json.dumps({"said": text}) for text in texts]))["properties"].values()
    assert field == {"type": "string", "maxLength": round(1.5 * max(map(len, texts)))}


def test_answers_without_any_key_have_a_schema_too() -> None:
    assert json_schema(infer_objects(["{}", "{}"])) == {
        "type": "object", "properties": {}, "required": [], "additionalProperties": False,
    }  # fmt: skip
