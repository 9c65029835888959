"""Replies of a given form, from a model that knows nothing: whatever it says parses and validates."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.generate.conftest import Served, ask
from weft.errors import ResourceError, RunError, UsageError
from weft.generate import constrain
from weft.generate.constrain import Grammars
from weft.testing import byte_tokenizer

TOKENIZER: Any = byte_tokenizer()
ENDS = {256, 258}


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(TOKENIZER, 264, ENDS, seconds=30)
    yield made
    made.close()


def allowed(matcher: constrain.Matcher) -> str:
    """What may come next, ends as a full stop."""
    tokens = matcher.allowed(ENDS).nonzero().flatten().tolist()
    return "".join(sorted("." if token in ENDS else TOKENIZER.decode([token]) for token in tokens))


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of bounded replies."""
    kinds = ["string", "integer", "boolean", "enum", "null"] + (["object", "array"] * 2 if depth < 2 else [])
    kind = "object" if depth == 0 else rng.choice(kinds)
    if kind == "string":
        return {"type": "string", "maxLength": rng.randint(1, 6)}
    if kind == "integer":
        low = rng.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)}
    if kind == "enum":
        return {"enum": rng.sample(["a", "bee", 3, None, True, "x y"], 3)}
    if kind == "array":
        least = rng.randint(0, 2)
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": least, "maxItems": least + 1}
    if kind == "object":
        names = rng.sample(["name", "age", "tags", "ok"], rng.randint(1, 3))
        required = [name for name in names if rng.random() < 0.7]
        properties = {name: random_schema(rng, depth + 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": kind}


def test_an_untrained_model_follows_twenty_random_schemas(served: Served) -> None:
    validating = pytest.importorskip("jsonschema_rs")
    engine, rng = served.engine(), random.Random(0)
    schemas = [random_schema(rng) for _ in range(20)]
    heard = [
        ask(engine, [1, 2, 3], 200, end_ids=frozenset(ENDS), constraint=engine.grammars.json_schema(schema),
            temperature=1.0, seed=seed)
        for seed, schema in enumerate(schemas)
    ]  # fmt: skip
    for schema, reply in zip(schemas, heard, strict=True):
        assert reply.wait().finish == "stop", reply.steps[-1].error
        text = TOKENIZER.decode(reply.ids)
        assert not any(token in ENDS for token in reply.ids)
        validating.validator_for(schema).validate(json.loads(text))
        # No white space between the parts: the text is what a compact writer gives for the same value.
        assert len(text) <= len(json.dumps(json.loads(text), separators=(",", ":"))) + text.count("\\") * 6


def test_a_free_row_beside_a_constrained_one_is_not_changed(served: Served) -> None:
    engine = served.engine()
    plain = ask(engine, [5, 6, 7], 8).wait().ids
    bound = ask(engine, [5, 6, 7], 8, constraint=engine.grammars.regex("[0-9]{8}"))
    assert ask(engine, [5, 6, 7], 8).wait().ids == plain
    assert TOKENIZER.decode(bound.wait().ids).isdigit()


def test_an_end_is_allowed_only_where_the_grammar_may_end(grammars: Grammars) -> None:
    matcher = grammars.regex("ab?c?").start()
    assert allowed(matcher) == "a"
    matcher.took(TOKENIZER.encode("a")[0])
    assert allowed(matcher) == "..bc" and not matcher.done
    matcher.took(TOKENIZER.encode("c")[0])
    assert matcher.done


def test_one_token_is_taken_where_all_that_are_allowed_hold_it(grammars: Grammars) -> None:
    rng = random.Random(3)
    for _ in range(12):
        matcher = grammars.json_schema(random_schema(rng)).start()
        while not matcher.done:
            mask = matcher.allowed(ENDS)
            assert [matcher.takes(token, ENDS) for token in range(264)] == mask.tolist()
            matcher.took(rng.choice([token for token in mask.nonzero().flatten().tolist() if token not in ENDS]))
        assert [token for token in range(264) if matcher.takes(token, ENDS)] == sorted(ENDS)


def test_a_whole_reply_is_accepted_and_nothing_else(grammars: Grammars) -> None:
    constraint = grammars.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    said = {
        text: constraint.accepts(TOKENIZER.encode(text)) for text in ('{"a":1}', '{"a":1', '{"a":1}x', '{"a": 1}', "")
    }
    assert said == {'{"a":1}': True, '{"a":1': False, '{"a":1}x': False, '{"a": 1}': False, "": False}


def test_a_schema_may_wish_for_blanks_behind_commas_and_colons_and_for_no_other_text(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["a", "b"]}
    spaced = grammars.json_schema({**schema, "x-guidance": {"item_separator": ", ", "key_separator": ": "}})
    assert spaced.accepts(TOKENIZER.encode('{"a": 1, "b": 2}')) and not spaced.accepts(
        TOKENIZER.encode('{"a":1,"b":2}')
    )
    for wish in (
        {"item_separator": "x", "key_separator": ["y"]},
        {"item_separator": {}},
        ["item_separator"],
        "x",
        None,
    ):
        plain = grammars.json_schema({**schema, "x-guidance": wish})
        assert plain.accepts(TOKENIZER.encode('{"a":1,"b":2}'))


def test_one_constraint_serves_many_replies_at_once(grammars: Grammars) -> None:
    constraint = grammars.regex("ab")
    first, second = constraint.start(), constraint.start()
    first.took(TOKENIZER.encode("a")[0])
    assert allowed(first) == "b" and allowed(second) == "a"
    assert grammars.regex("ab") is constraint


def test_a_json_object_begins_with_a_brace(grammars: Grammars) -> None:
    assert allowed(grammars.json_object().start()) == "{"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "obj"}, "Invalid type: obj"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ."not".'),
        ({"$ref": "http://example.com/x"}, "not present in a registry"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable schema"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"type": "integer", "multipleOf": 987654321, "minimum": 0}, "fuel exhausted"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_words(
    grammars: Grammars, schema: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=f"the JSON schema cannot be used: .*{said}"):
        grammars.json_schema(schema)


def test_a_schema_cannot_switch_the_rules_off(grammars: Grammars) -> None:
    with pytest.raises(UsageError, match="Unimplemented keys"):
        grammars.json_schema({"not": {"type": "string"}, "x-guidance": {"lenient": True}})


def test_what_is_no_schema_is_refused(grammars: Grammars) -> None:
    deep: dict[str, Any] = {}
    for _ in range(constrain.DEEPEST + 1):
        deep = {"items": deep}
    for schema, said in (
        ([1], "is a list, expected an object"),
        ({"enum": {1, 2}}, "is not JSON"),
        ({"enum": ["x" * constrain.LARGEST]}, "larger than 256 KiB or nested deeper than 100 levels"),
        (deep, "larger than 256 KiB or nested deeper than 100 levels"),
    ):
        with pytest.raises(UsageError, match=said):
            grammars.json_schema(schema)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the pattern is larger than 256 KiB"):
        grammars.regex("x" * (constrain.LARGEST + 1))
    with pytest.raises(UsageError, match=r"the pattern cannot be used: .*unclosed group"):
        grammars.regex("(")


def test_a_grammar_that_takes_too_long_is_killed_and_the_next_one_is_made() -> None:
    made = Grammars(TOKENIZER, 264, ENDS, seconds=1e-4)
    with pytest.raises(UsageError, match=r"making it took more than 0.0001 seconds or 2048 MiB"):
        made.json_schema({"enum": [f"word {i}" for i in range(9000)]})
    made._seconds = 30
    assert made.json_object()
    made.close()


def test_a_process_that_does_not_start_is_no_fault_of_the_schema() -> None:
    made = Grammars(TOKENIZER, 264, ENDS, memory=1)
    with pytest.raises(ResourceError, match="the process that tries response formats could not be started"):
        made.json_object()


def test_a_token_that_the_grammar_forbids_ends_in_words(grammars: Grammars) -> None:
    matcher = grammars.regex("ab").start()
    with pytest.raises(RunError, match="the response format became too complex to follow"):
        matcher.took(TOKENIZER.encode("z")[0])
        matcher.allowed(ENDS)


def test_a_mask_covers_the_whole_vocabulary(grammars: Grammars) -> None:
    assert grammars.json_object().start().allowed(ENDS).shape == torch.Size([264])
