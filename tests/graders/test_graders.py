"""Each grader on answers that a person has judged first."""

from __future__ import annotations

import pytest

from weft.data.key_lines import parse_lines
from weft.graders.chrf import Chrf
from weft.graders.exact_match import ExactMatch
from weft.graders.fields import Fields
from weft.graders.format_consistency import FormatConsistency
from weft.graders.json_text import parse_object
from weft.graders.label import Label
from weft.graders.shape import infer_shape
from weft.graders.similarity import Similarity

REPLIES = ["refund", "delivery", "damage", "billing"]


def ticket(i: int) -> str:
    """Closed category, copied order number (null in every third row), a free reply sentence."""
    number = "null" if i % 3 == 0 else f'"#{10000 + 37 * i}"'
    reply = f"We have noted item {i} of your message about {REPLIES[i % 4]} and will write soon."
    return f'{{"category":"{REPLIES[i % 4]}","order":{number},"reply":"{reply}"}}'


def ticket_fields() -> Fields:
    shape = infer_shape([ticket(i) for i in range(60)], [f"order #{10000 + 37 * i} please" for i in range(60)])
    return Fields(shape)  # type: ignore[arg-type]


def test_exact_match_ignores_only_the_white_space_around() -> None:
    assert ExactMatch().grade(" yes\n", "yes") == {"exact_match": 1.0}
    assert ExactMatch().grade("Yes", "yes") == {"exact_match": 0.0}


@pytest.mark.parametrize(("answer", "score"), [("refund ", 1.0), ("Refund", 0.0), ("refund.", 0.0), ("a refund", 0.0)])
def test_a_label_is_right_only_as_it_is_written(answer: str, score: float) -> None:
    assert Label().grade(answer, "refund") == {"accuracy": score}


def test_chrf_is_what_sacrebleu_says() -> None:
    from sacrebleu import sentence_chrf

    answer, expected = "The kettle has been sent today.", "Your kettle was sent today."
    assert Chrf().grade(answer, expected)["chrf"] == pytest.approx(sentence_chrf(answer, [expected]).score / 100)


def test_chrf_of_equal_texts_is_one_and_of_an_empty_answer_zero() -> None:
    assert [Chrf().grade(a, b)["chrf"] for a, b in (("", ""), ("a b", "a b"), ("", "abc"))] == [1.0, 1.0, 0.0]


def test_similarity_counts_words_in_the_same_order() -> None:
    assert Similarity().grade("a b c d", "a b x d")["similarity"] == pytest.approx(2 * 3 / 8)


def test_equal_answers_get_full_marks_in_every_field() -> None:
    fields = ticket_fields()
    for i in range(5):
        assert fields.grade(ticket(i), ticket(i)) == {
            "accuracy": 1.0,
            "fields.category": 1.0,
            "fields.order": 1.0,
            "fields.reply": 1.0,
        }


def test_a_free_field_in_other_words_lowers_its_score_but_not_the_accuracy() -> None:
    scores = ticket_fields().grade(ticket(1).replace("will write soon", "will answer soon"), ticket(1))
    assert scores["accuracy"] == 1.0
    assert 0.5 < scores["fields.reply"] < 1.0


def test_one_wrong_copied_field_makes_the_row_wrong_and_spares_the_other_fields() -> None:
    scores = ticket_fields().grade(ticket(1).replace("#10037", "#10038"), ticket(1))
    assert (scores["accuracy"], scores["fields.order"], scores["fields.category"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "answer",
    ["", "sorry", "Here it is: " + ticket(1), "```json\n" + ticket(1) + "\n```", ticket(1)[:-1], ticket(1) + ticket(1)],
)
def test_an_answer_that_is_not_one_json_object_has_nothing_right(answer: str) -> None:
    assert set(ticket_fields().grade(answer, ticket(1)).values()) == {0.0}


def test_an_invented_key_makes_the_row_wrong() -> None:
    assert ticket_fields().grade(ticket(1)[:-1] + ',"mood":"bad"}', ticket(1))["accuracy"] == 0.0


def test_a_missing_key_is_not_null() -> None:
    answer = ticket(0).replace('"order":null,', "")
    scores = ticket_fields().grade(answer, ticket(0))
    assert (scores["accuracy"], scores["fields.order"]) == (0.0, 0.0)


def test_a_field_rightly_left_out_counts_as_right() -> None:
    outputs = [f'{{"time":"{i}:00"}}' if i % 2 else "{}" for i in range(40)]
    grader = Fields(infer_shape(outputs, [f"at {i}:00" for i in range(40)]))  # type: ignore[arg-type]
    assert grader.grade("{}", "{}") == {"accuracy": 1.0, "fields.time": 1.0}
    assert grader.grade('{"time":"3:00"}', "{}") == {"accuracy": 0.0, "fields.time": 0.0}


def test_an_expected_answer_that_breaks_the_form_can_only_be_matched_whole() -> None:
    grader = ticket_fields()
    assert grader.grade("I do not know", "I do not know")["accuracy"] == 1.0
    assert grader.grade(ticket(1), "I do not know")["accuracy"] == 0.0


def test_lines_are_graded_like_objects() -> None:
    outputs = [f"Category: {REPLIES[i % 4]}\nOrder: {i}" for i in range(60)]
    grader = Fields(infer_shape(outputs))  # type: ignore[arg-type]
    assert grader.grade("Category: refund\nOrder: 7", "Category: refund\nOrder: 8") == {
        "accuracy": 0.0,
        "fields.Category": 1.0,
        "fields.Order": 0.0,
    }


def test_format_consistency_looks_at_the_form_and_not_at_the_content() -> None:
    grader = FormatConsistency(infer_shape(["yes", "no"] * 10))
    assert grader.grade("no", "yes") == {"format_consistency": 1.0}
    assert grader.grade("No!", "yes") == {"format_consistency": 0.0}


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":NaN}', "[1]", '{"a":1} ok', '{"a":', "[" * 100_000, ""])
def test_what_is_not_one_strict_json_object_is_refused(text: str) -> None:
    assert parse_object(text) is None


def test_deeply_nested_json_is_refused_and_does_not_crash() -> None:
    assert parse_object('{"a":' * 100_000) is None


def test_json_values_are_compared_by_type() -> None:
    shape = infer_shape([f'{{"n":{i % 2}}}' for i in range(40)])
    grader = Fields(shape)  # type: ignore[arg-type]
    assert grader.grade('{"n":1.0}', '{"n":1}')["accuracy"] == 1.0
    assert grader.grade('{"n":true}', '{"n":1}')["accuracy"] == 0.0


@pytest.mark.parametrize("text", ["Category refund", "A: 1\nA: 2", "See https://x.org", "12:30", "A: 1\n\nB: 2", ""])
def test_what_is_not_made_of_key_value_lines_is_refused(text: str) -> None:
    assert parse_lines(text) is None


def test_key_value_lines_may_have_empty_values() -> None:
    assert parse_lines("Name: Ann\r\nOrder:\n") == {"Name": "Ann", "Order": ""}
