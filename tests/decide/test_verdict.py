"""Every verdict from scorecards made by hand, and the boundaries between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from weft.decide.controls import constant_control, swapped_control
from weft.decide.verdict import BLIND, Verdict, decide, settled_without_arms
from weft.evaluate.compare import newcombe
from weft.evaluate.score import summarise
from weft.records import Conversation, Finding, Message, Scorecard
from weft.tasks import Task, infer

LABELS = ["refund", "delivery", "damage", "billing", "account"]
TOKENS = {"classical": 0.0, "zero-shot": 40.0, "prompted": 90.0, "few-shot": 600.0, "rag": 500.0, "tuned": 42.0}


def task_of(answers: Sequence[str]) -> Task:
    return infer([Conversation((Message("user", f"m {i}"), Message("assistant", a))) for i, a in enumerate(answers)])


def labels() -> Task:
    return task_of(LABELS * 20)


def card(arm: str, right: Sequence[bool], *, strange: Sequence[int] = (), tokens: float | None = None) -> Scorecard:
    """Row i expects label i mod 5; a wrong row gives the next label, a row of `strange` something that is none."""
    task = labels()
    grades = []
    for i, ok in enumerate(right):
        answer = LABELS[(i + (not ok)) % 5]
        grades.append(task.grade("hm, " + answer if i in strange else answer, LABELS[i % 5]))
    metrics = summarise(task, grades)
    return Scorecard(arm, "test", tuple(grades), metrics, TOKENS[arm] if tokens is None else tokens, 0.1)


def first(k: int, n: int) -> list[bool]:
    """The first k of n rows are right."""
    return [i < k for i in range(n)]


def last(k: int, n: int) -> list[bool]:
    """The last k of n rows are right."""
    return first(n - k, n) and [i >= n - k for i in range(n)]


def verdict(
    *cards: Scorecard,
    task: Task | None = None,
    findings: Sequence[Finding] = (),
    sizes: Mapping[str, int] | None = None,
) -> Verdict:
    sizes = sizes or {"train": 400, "validation": 60, "test": len(cards[0].grades)}
    return decide(task or labels(), {c.arm: c for c in cards}, findings, sizes=sizes)


def test_a_tuned_arm_that_is_clearly_better_is_worth_it() -> None:
    found = verdict(card("zero-shot", first(20, 100)), card("few-shot", first(60, 100)), card("tuned", first(95, 100)))
    assert (found.choice, found.arm) == ("fine-tune", "tuned")
    assert found.comparison is not None
    assert (found.comparison.arms, found.comparison.difference) == (("tuned", "few-shot"), pytest.approx(0.35))
    assert found.comparison.corrected_p < 0.001
    assert found.reason == (
        "The tuned model reaches 95.0 % right (88.8-97.8), few-shot prompting 60.0 % right (50.2-69.1): "
        "better by 35.0 points (25.3 to 44.5, p < 0.001, 100 rows)."
    )
    assert "few-shot has 60.0 %" in found.would_change[0]


def test_a_prompt_that_answers_everything_makes_training_needless() -> None:
    found = verdict(
        card("zero-shot", first(30, 100)), card("prompted", first(100, 100)), card("tuned", first(100, 100))
    )
    assert (found.choice, found.arm) == ("prompt", "prompted")


def test_a_bare_prompt_that_answers_everything_is_a_prompt_and_said_to_suffice() -> None:
    found = verdict(*[card(arm, first(100, 100)) for arm in ("zero-shot", "prompted", "few-shot", "tuned")])
    assert (found.choice, found.arm) == ("prompt", "zero-shot")
    assert "The bare prompt (zero-shot) reaches 100.0 % right" in found.reason
    assert "suffices as it is" in found.reason


def test_a_classifier_that_does_as_well_as_the_tuned_arm_wins() -> None:
    found = verdict(
        card("classical", first(184, 200)), card("zero-shot", first(80, 200)), card("tuned", first(188, 200))
    )
    assert found.choice == "classical"
    assert found.comparison is not None
    assert (found.comparison.arms, found.comparison.difference) == (("classical", "tuned"), pytest.approx(-0.02))
    assert "the cheapest arm that is not significantly worse than the best, -2.0 points" in found.reason


def test_the_best_arm_wins_when_it_is_also_the_cheapest() -> None:
    found = verdict(card("classical", first(95, 100)), card("zero-shot", first(50, 100)), card("tuned", first(92, 100)))
    assert found.choice == "classical"
    assert found.comparison is not None
    assert found.comparison.arms == ("classical", "tuned")
    assert "no dearer than the others" in found.reason


def test_few_shot_wins_over_an_equal_tuned_arm_and_names_the_tokens_that_tuning_saves() -> None:
    found = verdict(card("zero-shot", first(40, 100)), card("few-shot", first(94, 100)), card("tuned", first(95, 100)))
    assert found.choice == "few-shot"
    assert any("42 tokens per request instead of 600" in change for change in found.would_change)


def test_retrieval_wins_when_only_it_finds_the_answers() -> None:
    found = verdict(card("prompted", first(40, 100)), card("rag", first(90, 100)), card("tuned", first(50, 100)))
    assert found.choice == "rag"


def test_of_equal_prompts_the_one_with_fewer_tokens_wins() -> None:
    arms = [card("prompted", first(90, 100), tokens=300), card("few-shot", first(90, 100), tokens=200)]
    assert verdict(*arms).choice == "few-shot"


def test_a_small_test_set_does_not_choose_the_cheapest_by_not_seeing() -> None:
    found = verdict(card("zero-shot", first(20, 30)), card("tuned", first(25, 30)))
    assert found.choice == "more-data"
    assert found.comparison is not None
    assert found.comparison.p > 0.05
    assert "too small to choose" in found.reason
    assert "test rows (now 30) would tell these two apart" in found.would_change[0]


def test_the_same_shares_on_more_rows_are_decided() -> None:
    assert verdict(card("zero-shot", first(200, 300)), card("tuned", first(250, 300))).choice == "fine-tune"


def test_a_small_test_set_may_still_show_a_large_difference() -> None:
    assert verdict(card("zero-shot", first(4, 24)), card("tuned", first(22, 24))).choice == "fine-tune"


def test_twelve_rows_are_too_few() -> None:
    found = decide(labels(), {}, [], sizes={"train": 8, "validation": 2, "test": 2})
    assert (found.choice, found.comparison) == ("more-data", None)
    assert "12 usable ones, 2 of them held out" in found.reason


@pytest.mark.parametrize(
    ("sizes", "choice"),
    [
        ({"train": 8, "validation": 1, "test": 20}, "more-data"),  # 29 examples
        ({"train": 9, "validation": 1, "test": 20}, "fine-tune"),  # 30 examples, 20 of them test rows
        ({"train": 400, "validation": 60, "test": 19}, "more-data"),
    ],
)
def test_thirty_examples_and_twenty_test_rows_are_the_least(sizes: dict[str, int], choice: str) -> None:
    n = sizes["test"]
    assert verdict(card("zero-shot", first(0, n)), card("tuned", first(n, n)), sizes=sizes).choice == choice


def test_what_is_settled_needs_no_measurement_and_the_rest_does() -> None:
    few, enough = {"train": 8, "validation": 2, "test": 2}, {"train": 70, "validation": 10, "test": 20}
    assert settled_without_arms(labels(), [], sizes=few) == decide(labels(), {}, [], sizes=few)
    assert settled_without_arms(labels(), [], sizes=enough) is None


def test_identical_answers_leave_nothing_to_learn_however_few() -> None:
    found = decide(task_of(["Thank you."] * 12), {}, [], sizes={"train": 12, "validation": 0, "test": 0})
    assert found.choice == "none"
    assert "all 12 training answers are the same, “Thank you.”" in found.reason


def test_arms_no_better_than_one_constant_answer_are_none() -> None:
    found = verdict(*[card(arm, [i % 5 == 4 for i in range(200)]) for arm in ("zero-shot", "classical", "tuned")])
    assert (found.choice, found.arm) == ("none", None)
    assert found.reason.startswith("Nothing here beats always answering “refund”: that reaches 20.0 % right")
    assert found.control is not None
    assert found.control.value == pytest.approx(0.2)


def test_on_shuffled_labels_it_is_never_fine_tune() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        arms = ("zero-shot", "prompted", "few-shot", "classical", "tuned")
        found = verdict(*[card(arm, list(rng.random(120) < 0.2)) for arm in arms])
        assert found.choice in ("none", "more-data"), (seed, found.reason)


def test_a_lead_over_the_constant_that_a_small_test_set_cannot_show_asks_for_more_data() -> None:
    found = verdict(card("zero-shot", first(6, 30)), card("tuned", last(11, 30)))
    assert found.choice == "more-data"
    assert "Nothing here is shown to beat" in found.reason


def test_shuffled_json_is_not_worth_a_fine_tune() -> None:
    task, rng = (
        task_of([json.dumps({"kind": "abc"[i % 3], "code": str(i)}) for i in range(120)]),
        np.random.default_rng(0),
    )
    expected = [json.dumps({"kind": "abc"[i % 3], "code": str(i)}) for i in range(80)]
    answers = [expected[i] for i in rng.permutation(80)]
    grades = [task.grade(a, e) for a, e in zip(answers, expected, strict=True)]
    tuned = Scorecard("tuned", "test", tuple(grades), summarise(task, grades), 40, 0.1)
    assert verdict(tuned, task=task).choice == "none"


def test_of_equally_right_arms_the_one_that_breaks_the_form_is_worse() -> None:
    wrong_anyway = range(90, 120)
    found = verdict(card("prompted", first(90, 120), strange=wrong_anyway), card("tuned", first(90, 120)))
    assert found.choice == "fine-tune"
    assert found.comparison is not None
    assert (found.comparison.metric, found.comparison.arms) == ("format_consistency", ("tuned", "prompted"))
    assert "equally right, but it keeps the form more often, by 25.0 points" in found.reason


def test_a_slightly_better_arm_that_breaks_the_form_loses_to_an_orderly_one() -> None:
    found = verdict(card("prompted", first(231, 300), strange=range(240, 300)), card("tuned", first(230, 300)))
    assert found.choice == "fine-tune"
    assert found.comparison is not None
    assert found.comparison.metric == "format_consistency"


def test_many_arms_are_corrected_for_their_number() -> None:
    tuned = card("tuned", first(150, 200))
    rival = card("prompted", [i < 143 for i in range(200)])  # seven rows worse: p = 0.016 alone
    assert verdict(rival, tuned).choice == "fine-tune"
    others = [card(arm, [i < 143 for i in range(200)]) for arm in ("classical", "zero-shot", "few-shot", "rag")]
    found = verdict(rival, *others, tuned)  # five such comparisons: Holm's p = 0.08
    assert found.choice == "classical"


def test_a_poor_level_is_said() -> None:
    found = verdict(card("zero-shot", first(0, 100)), card("tuned", first(42, 100), tokens=40), findings=[flaw()])
    assert found.choice == "fine-tune"
    assert "Mind the level: it is still wrong in 58 % of the requests." in found.reason
    assert "mending what the check found (conflict)" in found.would_change


def flaw() -> Finding:
    return Finding("conflict", 4, "warning", "the same question has two answers")


def test_flaws_of_the_data_are_named_where_they_may_change_the_verdict() -> None:
    found = decide(labels(), {}, [flaw(), flaw()], sizes={"train": 8, "validation": 2, "test": 2})
    assert found.would_change[-1] == "mending what the check found (conflict)"


def letters(n: int) -> tuple[Task, list[str]]:
    rng = np.random.default_rng(0)
    words = ["kettle", "lamp", "tent", "river", "sugar", "window", "garden", "violin", "copper", "meadow"]
    texts = [f"Your {' '.join(rng.choice(words, 4))} leaves on day {i}." for i in range(n)]
    return task_of(texts), texts


def text_card(arm: str, task: Task, answers: Sequence[str], expected: Sequence[str]) -> Scorecard:
    grades = [task.grade(a, e) for a, e in zip(answers, expected, strict=True)]
    return Scorecard(arm, "test", tuple(grades), summarise(task, grades), TOKENS[arm], 0.1)


def test_text_is_decided_by_score_with_a_permutation_test() -> None:
    task, texts = letters(60)
    good = [text.replace("leaves", "departs") for text in texts]
    found = verdict(
        text_card("prompted", task, ["I do not know."] * 60, texts), text_card("tuned", task, good, texts), task=task
    )
    assert found.choice == "fine-tune"
    assert found.comparison is not None
    assert found.comparison.test == "paired permutation"
    assert "reaches chrF" in found.reason


def test_fluent_text_that_ignores_the_question_is_none() -> None:
    task, texts = letters(60)
    shuffled = [texts[i] for i in np.random.default_rng(1).permutation(60)]
    found = verdict(text_card("tuned", task, shuffled, texts), task=task)
    assert found.choice in ("none", "more-data")
    assert found.choice == "none", found.reason


def test_the_constant_control_gives_every_row_the_most_frequent_answer() -> None:
    task = replace(labels(), constant="damage")
    control = constant_control(task, card("tuned", first(10, 10)))
    assert {grade.answer for grade in control.grades} == {"damage"}
    assert control.metrics["accuracy"].value == pytest.approx(0.2)


def test_the_swapped_control_judges_answers_on_other_rows_only() -> None:
    task, texts = letters(20)
    perfect = text_card("tuned", task, texts, texts)
    control = swapped_control(task, perfect)
    assert perfect.metrics["chrf"].value == 1.0
    assert control.metrics["chrf"].value < 0.7
    assert max(grade.scores["chrf"] for grade in control.grades) < 1.0


def test_costs_are_tokens_per_thousand_requests_cheapest_first() -> None:
    found = verdict(card("tuned", first(90, 100)), card("few-shot", first(20, 100)), card("classical", first(20, 100)))
    assert list(found.costs.items()) == [("classical", 0.0), ("few-shot", 600_000.0), ("tuned", 42_000.0)]


def test_a_verdict_is_ready_for_the_report() -> None:
    found = verdict(card("zero-shot", first(20, 100)), card("tuned", first(95, 100)))
    stored = json.loads(json.dumps(found.to_json()))
    assert stored["choice"] == "fine-tune"
    assert {"arms", "metric", "difference", "low", "high", "p", "n", "test"} <= stored["comparison"].keys()


def test_a_single_arm_needs_no_rival() -> None:
    found = verdict(card("tuned", first(90, 100)))
    assert (found.choice, found.comparison) == ("fine-tune", None)


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(ValueError, match="unknown arm oracle: expected some of classical, zero-shot"):
        decide(labels(), {"oracle": card("tuned", first(9, 10))}, [], sizes={"train": 90, "validation": 1, "test": 30})


def test_nothing_measured_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="no scorecards: at least one arm"):
        decide(labels(), {}, [], sizes={"train": 90, "validation": 10, "test": 30})


def test_five_points_need_about_120_rows_to_be_excluded_where_two_equal_arms_differ_in_4_percent() -> None:
    def widest(rows: int) -> float:
        first, second = np.ones(rows, bool), np.ones(rows, bool)
        apart, together = round(0.02 * rows), round(0.04 * rows)
        first[:apart] = second[apart : 2 * apart] = False
        first[2 * apart : 2 * apart + together] = second[2 * apart : 2 * apart + together] = False
        return newcombe(first, second)[1]

    assert widest(100) > 0.05 > widest(129)
    assert widest(100) < BLIND
