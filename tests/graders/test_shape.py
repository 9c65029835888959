"""The form inferred from training answers: what it demands, what it tells, and that the training answers satisfy it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graders.field import infer_field
from weft.graders.label_shape import LabelShape
from weft.graders.line_shape import LineShape
from weft.graders.object_shape import ObjectShape
from weft.graders.shape import infer_shape, shape_from_json
from weft.graders.text_shape import TextShape
from weft.graders.vocabulary import is_closed

LEVELS = ["low", "normal", "high"]


def objects(count: int = 60) -> list[str]:
    return [
        json.dumps({"level": LEVELS[i % 3], "code": None if i % 4 == 0 else f"WX-{20000 + i}", "size": i})
        for i in range(count)
    ]


def test_json_answers_give_keys_types_options_and_order() -> None:
    shape = infer_shape(objects())
    assert isinstance(shape, ObjectShape)
    level, code, size = shape.fields
    assert (level.role, level.options, level.kinds) == ("closed", ("high", "low", "normal"), ("text",))
    assert (code.role, code.options, code.kinds) == ("copied", (), ("null", "text"))
    assert size.kinds == ("number",)
    assert shape.ordered


@pytest.mark.parametrize(
    "answer",
    [
        '{"level":"urgent","code":null,"size":1}',  # not an option
        '{"code":null,"level":"low","size":1}',  # another order
        '{"level":"low","size":1}',  # a key is missing
        '{"level":"low","code":null,"size":1,"more":2}',  # a key too many
        '{"level":"low","code":null,"size":"1"}',  # another type
        '{"level":"low","code":null,"size":true}',  # true is not a number
        'Sure: {"level":"low","code":null,"size":1}',  # text around it
        '["low"]',
        "",
    ],
)
def test_an_object_of_another_form_does_not_match(answer: str) -> None:
    assert not infer_shape(objects()).matches(answer)


def test_white_space_inside_json_is_not_judged() -> None:
    assert infer_shape(objects()).matches('{ "level":"low",\n "code" : "WX-1","size":2.5 }\n')


def test_keys_in_changing_order_may_stand_in_any_order() -> None:
    shape = infer_shape(['{"a":"x","b":"y"}', '{"b":"x","a":"y"}'] * 10)
    assert isinstance(shape, ObjectShape)
    assert not shape.ordered
    assert shape.matches('{"b":"x","a":"x"}')


def test_keys_that_come_and_go_are_optional_and_keep_their_common_order() -> None:
    shape = infer_shape(['{"a":"x","c":"z"}', '{"b":"y","c":"z"}', '{"a":"x","b":"y"}', "{}"] * 10)
    assert [field.name for field in shape.fields] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert shape.matches('{"b":"y"}')
    assert not shape.matches('{"c":"z","a":"x"}')


def test_json_with_a_tenth_of_prose_is_still_json() -> None:
    assert isinstance(infer_shape([*objects(54), *["I cannot tell."] * 6]), ObjectShape)
    assert isinstance(infer_shape([*objects(53), *[f"I cannot tell, {i}." for i in range(7)]]), TextShape)


def test_lines_with_the_same_keys_give_a_line_shape() -> None:
    shape = infer_shape([f"Category: {LEVELS[i % 3]}\nOrder: {i}" for i in range(60)])
    assert isinstance(shape, LineShape)
    assert shape.matches("Category: low\nOrder: 1234")
    assert not shape.matches("Order: 1234\nCategory: low")
    assert not shape.matches("Category: none\nOrder: 1234")
    assert not shape.matches("Category: low\nOrder: 1234\nThank you")


def test_few_short_answers_that_return_are_labels() -> None:
    shape = infer_shape([LEVELS[i % 3] for i in range(12)])
    assert shape == LabelShape(("high", "low", "normal"))
    assert shape.matches("low\n")
    assert not shape.matches("low.")


def test_answers_that_hardly_return_are_text() -> None:
    assert isinstance(infer_shape([f"word{i}" for i in range(60)]), TextShape)


def test_results_of_calculations_are_not_labels_though_they_return() -> None:
    assert isinstance(infer_shape([str(i % 50) for i in range(600)]), TextShape)
    assert isinstance(infer_shape([str(i % 5) for i in range(60)]), LabelShape)


def test_one_answer_for_everything_is_text_and_not_a_label() -> None:
    assert isinstance(infer_shape(["Thank you."] * 40), TextShape)


def test_free_text_keeps_the_habits_that_nearly_all_answers_share() -> None:
    names = [f"{i}{'x' * (i % 7)}" for i in range(40)]
    shape = infer_shape([f"Dear customer,\n- we have {name} for you\nKind regards, the shop." for name in names])
    assert isinstance(shape, TextShape)
    assert (shape.opening, shape.closing, shape.marker) == (
        "Dear customer, - we have",
        "for you Kind regards, the shop.",
        "-",
    )
    assert shape.matches("Dear customer,\n- we have none left for you\nKind regards, the shop.")
    assert not shape.matches("Hello,\n- we have none left for you\nKind regards, the shop.")
    assert not shape.matches("Dear customer, - we have none left for you Kind regards, the shop.")  # one line
    assert not shape.matches(f"Dear customer,\n- we have {'none ' * 50} for you\nKind regards, the shop.")  # too long


def test_a_habit_of_nine_in_ten_is_not_demanded() -> None:
    rows = [f"Row {i} is a sentence" + ("." if i % 10 else "") for i in range(100)]
    shape = infer_shape(rows)
    assert isinstance(shape, TextShape)
    assert shape.endings == ""


def test_endings_are_all_marks_that_close_the_answers() -> None:
    shape = infer_shape([f"Is it {i}?" if i % 2 else f"It is {i}." for i in range(40)])
    assert isinstance(shape, TextShape)
    assert shape.endings == ".?"
    assert not shape.matches("It is 4")


def test_a_handful_of_answers_shows_no_habits_beyond_ranges() -> None:
    shape = infer_shape(["We are sorry, Ann.", "We are sorry, Bob."])
    assert isinstance(shape, TextShape)
    assert (shape.opening, shape.endings) == ("", "")


def test_the_description_names_keys_options_and_null() -> None:
    said = infer_shape(objects(), [f"my code is WX-{20000 + i}" for i in range(60)]).describe()
    assert said == (
        'Answer with one JSON object and nothing else, with exactly the keys "level" (one of "high", "low", "normal"), '
        '"code" (text copied from the message or null), "size" (number copied from the message) in this order.'
    )


def test_the_description_of_labels_lists_them_all() -> None:
    said = infer_shape(LEVELS * 4).describe()
    assert said == "Answer with exactly one of these labels and nothing else: high, low, normal."


def test_the_description_of_text_tells_its_habits() -> None:
    said = infer_shape([f"We thank {'you ' * (1 + i % 9)}for {i}." for i in range(40)]).describe()
    assert said.startswith("Answer in one line of text, at most")
    assert 'Begin with "We thank you", end with "."' in said


def test_values_that_stand_in_their_message_are_copied_even_when_few() -> None:
    people = [str(i % 4) for i in range(60)]
    assert infer_field("people", people, [f"a table for {p}" for p in people], rows=60).role == "copied"
    assert infer_field("people", people, None, rows=60).role == "closed"


def test_sentences_of_their_own_are_free() -> None:
    replies = [f"We will send item {i} without any delay." for i in range(60)]
    reply = infer_field("reply", replies, None, rows=60)
    assert reply.role == "free"
    assert reply.describe() == '"reply" (text in your own words, about 8 words)'


def test_a_vocabulary_is_closed_when_its_values_return_and_few_come_once() -> None:
    assert is_closed(["a", "b"] * 5)
    assert is_closed([f"label {i % 77}" for i in range(10_003)])
    assert not is_closed([f"word {i}" for i in range(30)])
    assert not is_closed([*["a"] * 60, *[f"word {i}" for i in range(40)]])


@pytest.mark.parametrize(
    "outputs",
    [objects(), LEVELS * 5, [f"Key: {i}" for i in range(20)], [f"We thank you for {i}." for i in range(20)], [""]],
)
def test_a_stored_shape_comes_back_equal(outputs: list[str]) -> None:
    shape = infer_shape(outputs)
    assert shape_from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_an_unknown_stored_form_is_named() -> None:
    with pytest.raises(ValueError, match="unknown form 'xml': expected label, json, lines or text"):
        shape_from_json({"form": "xml"})


json_values = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", "c d"]) | st.text(max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("pqrs"), json_values, max_size=4), min_size=1, max_size=30))
def test_every_json_training_answer_satisfies_its_own_shape(rows: list[dict[str, object]]) -> None:
    outputs = [json.dumps(row) for row in rows]
    shape = infer_shape(outputs)
    assert all(shape.matches(output) for output in outputs)
    assert shape_from_json(json.loads(json.dumps(shape.to_json()))) == shape


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=30))
def test_at_least_nine_in_ten_answers_of_any_kind_satisfy_their_shape(outputs: list[str]) -> None:
    shape = infer_shape(outputs)
    assert sum(shape.matches(output) for output in outputs) >= 0.9 * len(outputs) - 1
    assert shape.describe()
