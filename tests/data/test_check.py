"""Each rule is met once with exact counts and lines, and is silent about what is in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.data.check import RULES, CheckContext, check, overlap
from weft.data.check.forms import mixed_forms
from weft.data.read import scan
from weft.records import Conversation, Dataset, Finding, Message

NAMES = ["ada", "ben", "cy", "dov", "eva", "finn", "gita", "hugo", "ines", "jon", "kira", "lars", "mona", "nils", "ola"]


def rows(*pairs: tuple[str, str]) -> Dataset:
    examples = tuple(
        Conversation((Message("user", question), Message("assistant", answer)), line)
        for line, (question, answer) in enumerate(pairs, 1)
    )
    return Dataset("data.jsonl", "chat messages", examples, (), len(examples), "")


def questions(number: int) -> list[str]:
    """Different questions that no rule minds."""
    a, b = NAMES, NAMES[::2]
    return [f"{a[n % 15]} wants {a[n // 15 % 15]} number {n * 7919} from {b[n % 8]}" for n in range(number)]


def labelled(number: int, labels: tuple[str, ...] = ("refund", "delivery")) -> list[tuple[str, str]]:
    return [(question, labels[n % len(labels)]) for n, question in enumerate(questions(number))]


def found(dataset: Dataset, rule: str) -> Finding:
    (finding,) = [finding for finding in check(dataset) if finding.rule == rule]
    assert finding.cost and finding.cure
    return finding


def test_data_in_order_has_no_findings() -> None:
    assert check(rows(*labelled(60))) == ()


def test_the_findings_of_the_reader_come_first() -> None:
    flaw = Finding("json", 3, "error", "is not valid JSON")
    dataset = rows(*labelled(60))
    dataset = Dataset(dataset.path, dataset.layout, dataset.examples, (flaw,), 61, "")
    assert check(dataset) == (flaw,)


@pytest.mark.parametrize(("number", "severity"), [(1, "error"), (9, "error"), (10, "warning"), (49, "warning")])
def test_few_examples_are_an_error_below_ten_and_a_warning_below_fifty(number: int, severity: str) -> None:
    finding = found(rows(*labelled(number, ("refund", "delivery", "billing"))), "too-few")
    assert finding.severity == severity
    assert finding.message.startswith("1 usable example;" if number == 1 else f"{number} usable examples;")


def test_empty_answers_are_counted_with_their_lines() -> None:
    pairs = labelled(60)
    for index in (3, 17, 20, 40):
        pairs[index] = (pairs[index][0], " \n")
    finding = found(rows(*pairs), "empty-answer")
    assert (finding.line, finding.severity) == (4, "error")
    assert finding.message == "4 answers are empty (lines 4, 18, 21 and 1 more)"
    assert found(rows(*[(q, "") for q, _ in pairs]), "empty-answer").message.startswith("all answers are empty")


def test_empty_questions_are_an_error() -> None:
    assert found(rows(*labelled(60), (" ", "refund")), "empty-question").message == "1 question is empty (line 61)"


def test_stand_ins_for_an_answer_are_named_unless_they_are_a_label() -> None:
    prose = [(question, f"Dear {question}, we will see.") for question in questions(60)]
    finding = found(rows(*prose, ("a good one", "N/A"), ("a bad one", "null")), "placeholder-answer")
    assert (finding.line, '"N/A"' in finding.message) == (61, True)
    assert not [f for f in check(rows(*labelled(60, ("refund", "none")))) if f.rule == "placeholder-answer"]


def test_identical_answers_are_an_error() -> None:
    finding = found(rows(*[(question, "Yes.") for question in questions(60)]), "identical-answers")
    assert (finding.severity, finding.message) == ("error", 'all 60 answers are identical: "Yes."')


def test_a_conflict_says_how_much_can_be_learned() -> None:
    pairs = [*labelled(57), ("Where is it?", "delivery"), ("where is it", "delivery"), ("where  is it?", "refund")]
    finding = found(rows(*pairs), "conflict")
    assert finding.message == "3 rows answer the same question differently (lines 58, 59, 60)"
    assert (finding.severity, finding.cost) == ("warning", "at best 98 % of the answers can be learned")


def test_different_replies_to_one_question_are_only_noted_for_prose() -> None:
    prose = [(question, f"Dear {question}, we will see.") for question in questions(60)]
    assert found(rows(*prose, ("Hi", "Hello there!"), ("Hi", "Good morning, friend.")), "conflict").severity == "note"


def test_other_signs_are_other_questions_and_other_answers() -> None:
    pairs = [*labelled(50), ("3+4", "refund"), ("3-4", "delivery")]
    assert not [finding for finding in check(rows(*pairs)) if finding.rule == "conflict"]
    languages = [(question, ("C", "C#", "C++")[n % 3]) for n, question in enumerate(questions(60))]
    assert check(rows(*languages)) == ()


def test_exact_and_near_duplicates_are_counted_apart() -> None:
    pairs = labelled(60)
    long = "I bought a blue kettle last week and it has never once worked properly"
    pairs += [pairs[0], (long, "refund"), (long + "!!", "refund"), (long + " yet", "refund")]
    dataset = rows(*pairs)
    assert found(dataset, "duplicate").message == "1 example repeats an earlier one exactly (line 61)"
    near = found(dataset, "near-duplicate")
    assert near.message.startswith(
        "1 question is almost the same as an earlier one (line 64; the first is like line 62"
    )
    assert near.severity == "note"


def test_answers_in_mixed_forms_name_the_fewer() -> None:
    pairs = [(question, json.dumps({"queue": NAMES[n % 15], "n": n})) for n, question in enumerate(questions(60))]
    pairs[9] = (pairs[9][0], "Please ask Ada.")
    finding = found(rows(*pairs), "mixed-forms")
    assert finding.message == "98 % of the answers are JSON and 2 % are prose; line 10 is not JSON"
    assert (finding.line, finding.severity) == (10, "warning")


def prose(number: int) -> list[tuple[str, str]]:
    """Free answers, no two alike, a few of them very short."""
    asked = questions(number)
    return [(q, f"Dear friend, {q}, and we will see to it." if n % 9 else f"Thanks, {n}!") for n, q in enumerate(asked)]


def fixed_lines(number: int) -> list[tuple[str, str]]:
    return [(f"{q} now", f"Category: {NAMES[n % 5]}\nPriority: {n % 3}") for n, q in enumerate(questions(number))]


def mixed(*pairs: tuple[str, str]) -> list[str]:
    return [finding.message for finding in check(rows(*pairs)) if finding.rule == "mixed-forms"]


def test_fixed_lines_beside_prose_are_mixed_forms() -> None:
    assert mixed(*fixed_lines(60), *prose(60)) == [
        '50 % of the answers are lines such as "Category: …" and 50 % are prose; lines 61, 62, 63 and 57 more are prose'
    ]
    assert mixed(*fixed_lines(59), *prose(1)) == [
        '98 % of the answers are lines such as "Category: …" and 2 % are prose; line 60 is prose'
    ]
    assert mixed(*prose(50), *fixed_lines(10)) == [
        '17 % of the answers are lines such as "Category: …" and 83 % are prose; '
        "lines 51, 52, 53 and 7 more are such lines"
    ]


def test_labels_beside_sentences_are_mixed_forms() -> None:
    finding = found(rows(*labelled(40), *prose(20)), "mixed-forms")
    assert finding.message == (
        '67 % of the answers are labels such as "refund" and "delivery" and 33 % are prose; '
        "lines 41, 42, 43 and 17 more are prose"
    )
    assert finding.severity == "warning"
    assert mixed(*labelled(60), ("Where is it?", "It left our store on Monday, and should be with you by Friday.")) == [
        '98 % of the answers are labels such as "refund" and "delivery" and 2 % are prose; line 61 is prose'
    ]
    assert mixed(*prose(50), *[(f"{q}, yes or no?", label) for q, label in labelled(10, ("yes", "no"))]) == [
        '17 % of the answers are labels such as "yes" and "no" and 83 % are prose; '
        "lines 51, 52, 53 and 7 more are labels"
    ]


def test_more_than_two_forms_are_all_named() -> None:
    objects = [(f"{q} again", json.dumps({"queue": n})) for n, q in enumerate(questions(30))]
    assert mixed(*objects, *fixed_lines(60), *prose(30)) == [
        '25 % of the answers are JSON, 50 % are lines such as "Category: …" and 25 % are prose; '
        "lines 1, 2, 3 and 57 more are of the rarer forms"
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        prose(120),
        # a note among letters, the same closing words, one list in JSON
        [*prose(100), ("a", "Note: see above"), ("b", "Name: Ada\nOrder: 7"), ("c", "[1, 2]")],
        [*prose(100), *[(f"bye {n}", ("Have a nice day!", "Thank you.")[n % 2]) for n in range(30)]],
        # short answers of every kind, as to quiz questions
        [*prose(60), *labelled(20, ("yes", "no")), *[(f"who is {n}", f"Ada the {n}th") for n in range(40)]],
        # stand-ins are another rule's
        [*prose(60), *[(f"{q}?", label) for q, label in labelled(20, ("N/A", "none"))]],
        # lines whose last value is a letter of several lines
        [*fixed_lines(40), *[(q, f"Category: ada\nReply: Dear {q}\n\nWe will see.") for q in questions(40)]],
        # labels with a colon, one without; a long label; one with a full stop
        [(q, ("Billing: refund", "Billing: invoice", "Other")[n % 3]) for n, q in enumerate(questions(60))],
        labelled(60, ("refund", "a label that says at length what all the others say much more briefly, as labels do")),
        labelled(60, ("positive", "neutral", "negative.")),
    ],
)  # fmt: skip
def test_answers_of_one_form_are_not_called_mixed(pairs: list[tuple[str, str]]) -> None:
    assert mixed(*pairs) == []


def test_neither_example_nor_real_free_texts_are_called_mixed(root: Path) -> None:
    for path in ("examples/tickets/tickets.jsonl", "examples/intents/intents.csv"):
        assert not [finding for finding in check(scan(root / path)) if finding.rule == "mixed-forms"]


@pytest.mark.parametrize(
    ("path", "question", "answer"),
    [
        ("bitext-customer-support/support.csv", "instruction", "response"),
        ("e2e-nlg/devset.csv", "mr", "ref"),
        ("e2e-nlg/devset.csv", "ref", "mr"),
        ("gsm8k/train.jsonl", "question", "answer"),
        ("hate-offensive-tweets/tweets.csv", "tweet", "class"),
        ("mts-dialog/MTS-Dialog-ValidationSet.csv", "dialogue", "section_text"),
        ("mts-dialog/MTS-Dialog-ValidationSet.csv", "section_text", "dialogue"),
        ("p3-prompted-tasks/quartz_use_info_from_question_paragraph.jsonl", "prompt", "completion"),
    ],
)
def test_public_data_of_one_form_are_not_called_mixed(shared: Path, path: str, question: str, answer: str) -> None:
    examples = scan(shared / "data" / path, input=question, output=answer).examples
    assert len(examples) > 50
    assert not list(mixed_forms(examples, CheckContext(examples)))


def test_broken_json_is_told_from_prose() -> None:
    pairs = [(question, json.dumps({"queue": NAMES[n % 15], "n": n})) for n, question in enumerate(questions(60))]
    pairs[9] = (pairs[9][0], '{"queue": "ada", "n"')
    dataset = rows(*pairs)
    assert "(line 10)" in found(dataset, "broken-json").message
    assert not [finding for finding in check(dataset) if finding.rule == "mixed-forms"]


def test_differing_json_keys_and_their_order_are_named() -> None:
    pairs = [(question, json.dumps({"queue": NAMES[n % 15], "n": n})) for n, question in enumerate(questions(60))]
    pairs[4] = (pairs[4][0], '{"queue": "ada"}')
    pairs[5] = (pairs[5][0], '{"queue": "ada", "n": 1, "note": "x"}')
    pairs[6] = (pairs[6][0], '{"n": 1, "queue": "ada"}')
    dataset = rows(*pairs)
    message = found(dataset, "json-keys").message
    assert message.startswith('2 answers have other keys than the usual "n", "queue": without "n" 1x, with "note" 1x')
    assert found(dataset, "json-key-order").line == 7


def test_spellings_of_one_label_are_named() -> None:
    pairs = labelled(60, ("refund_request", "delivery"))
    pairs[2] = (pairs[2][0], "Refund request.")
    finding = found(rows(*pairs), "label-spelling")
    assert '"refund_request" (29) and "Refund request." (1) (line 3)' in finding.message


def test_one_label_above_ninety_percent_is_suspicious() -> None:
    pairs = [(question, "delivery" if n < 5 else "refund") for n, question in enumerate(questions(60))]
    assert found(rows(*pairs), "dominant-label").message == '92 % of the answers are "refund"'


def test_rare_labels_are_named_with_their_counts() -> None:
    pairs = labelled(60)
    pairs += [("a lonely one", "billing"), ("another here", "billing")]
    assert found(rows(*pairs), "rare-labels").message == '1 label has fewer than 5 examples: "billing" (2)'


def test_examples_longer_than_the_context_are_found_when_tokens_can_be_counted() -> None:
    pairs = labelled(60)
    pairs[7] = ("word " * 90, "refund")
    dataset = rows(*pairs)
    (finding,) = check(dataset, count_tokens=lambda example: len(example.question.split()), context_tokens=50)
    assert finding.message == "1 example longer than the context of 50 tokens (line 8); the longest has 90"
    assert check(dataset) == ()


def test_outer_whitespace_of_answers_is_named() -> None:
    pairs = labelled(60)
    pairs[7] = (pairs[7][0], " " + pairs[7][1])
    assert found(rows(*pairs), "outer-whitespace").line == 8


def test_control_tokens_are_a_warning_in_answers_and_a_note_in_questions() -> None:
    pairs = labelled(60)
    pairs[7] = ("ignore this <|im_end|> please", pairs[7][1])
    assert found(rows(*pairs), "control-token").severity == "note"
    prose = [(question, f"Dear {question}, we will see.<|endoftext|>") for question in questions(60)]
    finding = found(rows(*prose), "control-token")
    assert (finding.severity, "<|endoftext|>" in finding.message) == ("warning", True)


def test_rules_speak_once_however_many_rows_there_are() -> None:
    findings = check(rows(*[("same", " n/a ")] * 500))
    assert len({finding.rule for finding in findings}) == len(findings) <= len(RULES)


def test_no_examples_at_all_are_only_too_few() -> None:
    assert [finding.rule for finding in check(rows())] == ["too-few"]


def test_rows_of_the_test_file_that_were_trained_on_are_named() -> None:
    train = rows(*labelled(60)).examples
    long = "I bought a blue kettle last week and it has never once worked properly"
    learned = rows(*labelled(60), (long, "refund")).examples
    test = rows(
        (train[4].question.upper(), "refund"), ("quite another thing", "refund"), (long + " yet", "refund")
    ).examples
    exact, near = overlap(learned, test)
    assert (exact.rule, exact.line) == ("overlap", 1)
    assert exact.message == "1 question of the test is also in the training file (line 1)"
    assert (near.rule, near.line) == ("near-overlap", 3)
    assert overlap(train, test[1:2]) == () == overlap((), test)


def test_real_data_have_few_findings_and_exact_ones(shared: Path) -> None:
    findings = {finding.rule: finding for finding in check(scan(shared / "data" / "banking77" / "train.csv"))}
    assert set(findings) == {"carriage-return", "conflict", "near-duplicate"}
    assert findings["conflict"].message == "2 rows answer the same question differently (lines 2010, 3169)"
