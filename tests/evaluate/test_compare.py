"""Statistics against published examples, scipy, and small simulations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from weft.evaluate.compare import (
    compare,
    compare_all,
    compare_shares,
    holm,
    mcnemar,
    newcombe,
    paired_bootstrap,
    wilson,
)
from weft.records import Conversation, Grade, Message, Scorecard
from weft.tasks import Task, infer


def paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([1] * both + [1] * only_a + [0] * only_b + [0] * neither, dtype=bool)
    b = np.array([1] * both + [0] * only_a + [1] * only_b + [0] * neither, dtype=bool)
    return a, b


def task() -> Task:
    labels = ["yes", "no"] * 20
    return infer([Conversation((Message("user", f"m {i}"), Message("assistant", y))) for i, y in enumerate(labels)])


def card(arm: str, right: list[bool]) -> Scorecard:
    judge = task()
    grades = tuple(judge.grade("yes" if ok else "no", "yes") for ok in right)
    return Scorecard(arm, "test", grades, {}, 0.0, 0.0)


def at_seventy_percent(grade: Grade) -> Grade:
    return replace(grade, scores={"accuracy": 0.7 * grade.scores["accuracy"]})


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (81, 263), (15, 148), (29, 29), (1999, 2000)])
def test_wilson_is_what_scipy_says(k: int, n: int) -> None:
    truth = binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k, n)
    assert (found.value, found.low, found.high) == pytest.approx((k / n, truth.low, truth.high))


def test_wilson_gives_the_published_example() -> None:
    found = wilson(81, 263)  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 0 is no share"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="5 of 4 is no share"):
        wilson(5, 4)


def test_mcnemar_on_paper() -> None:
    a, b = paired(10, 6, 0, 4)
    assert mcnemar(a, b) == pytest.approx(2 / 2**6)  # six coins, all heads, two-sided
    a, b = paired(10, 5, 1, 4)
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 6) / 2**6)


def test_mcnemar_of_the_presidents_approval() -> None:
    a, b = paired(794, 150, 86, 570)  # Agresti, Categorical Data Analysis, table 10.1: z² = 17.36
    assert mcnemar(a, b) == pytest.approx(binomtest(86, 236).pvalue)
    assert mcnemar(a, b) < 0.0001
    found = compare_shares(a, b)
    assert found.difference == pytest.approx(0.04)
    assert (round(found.low, 2), round(found.high, 2)) == (0.02, 0.06)


def test_arms_that_never_disagree_have_no_difference() -> None:
    a, b = paired(10, 0, 0, 4)
    found = compare_shares(a, b)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_the_paired_interval_gives_the_published_example() -> None:
    low, high = newcombe(*paired(36, 12, 2, 0))  # Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


def test_the_paired_interval_mirrors_when_arms_are_exchanged() -> None:
    a, b = paired(30, 9, 4, 7)
    low, high = newcombe(a, b)
    assert newcombe(b, a) == pytest.approx((-high, -low))
    turned, other = compare_shares(a, b).reversed(), compare_shares(b, a, arms=("b", "a"))
    assert (turned.arms, turned.p) == (other.arms, other.p)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((other.difference, other.low, other.high))


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        cells = rng.multinomial(60, [0.5, 0.25, 0.1, 0.15])
        low, high = newcombe(*paired(*cells))
        covered += low <= 0.15 <= high
    assert 0.93 <= covered / 600 <= 0.985


def test_mcnemar_seldom_cries_wolf() -> None:
    rng = np.random.default_rng(2)
    alarms = sum(mcnemar(*paired(*rng.multinomial(50, [0.5, 0.15, 0.15, 0.2]))) < 0.05 for _ in range(400))
    assert alarms / 400 <= 0.06


def test_the_permutation_p_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(30), rng.random(30) * 0.8
    truth = permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=0)
    assert paired_bootstrap(a, b).p == pytest.approx(truth.pvalue, abs=0.02)


def test_the_permutation_p_of_few_rows_is_that_of_all_sign_flips() -> None:
    assert paired_bootstrap([0.9] * 8, [0.5] * 8).p == pytest.approx(2 / 2**8, abs=0.003)


def test_the_bootstrap_interval_of_scores_agrees_with_the_normal_one() -> None:
    rng = np.random.default_rng(4)
    gaps = rng.normal(0.05, 0.2, size=400)
    found = paired_bootstrap(gaps, np.zeros(400), seed=7)
    half = 1.96 * gaps.std(ddof=1) / math.sqrt(400)
    assert found.difference == pytest.approx(gaps.mean())
    assert (found.low, found.high) == pytest.approx((gaps.mean() - half, gaps.mean() + half), abs=0.003)


def test_the_same_seed_gives_the_same_comparison() -> None:
    a, b = np.random.default_rng(5).random((2, 50))
    assert paired_bootstrap(a, b, 3) == paired_bootstrap(a, b, 3)
    assert paired_bootstrap(a, b, 3) != paired_bootstrap(a, b, 4)


def test_equal_scores_are_no_difference() -> None:
    found = paired_bootstrap([0.3, 0.7], [0.3, 0.7])
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_holm_on_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_right_or_wrong_is_compared_by_mcnemar_and_scores_by_permutation() -> None:
    a, b = card("a", [True] * 9 + [False]), card("b", [True, False] * 5)
    assert compare(a, b, task()).test == "McNemar exact"
    scored = [replace(c, grades=tuple(map(at_seventy_percent, c.grades))) for c in (a, b)]
    found = compare(*scored, task())
    assert (found.test, found.difference) == ("paired permutation", pytest.approx(0.7 * 0.4))


def test_all_pairs_are_corrected_together() -> None:
    cards = [card("a", [True] * 20), card("b", [True] * 12 + [False] * 8), card("c", [False] * 20)]
    found = compare_all(cards, task())
    assert [c.arms for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [c.p_adjusted for c in found] == pytest.approx(holm([c.p for c in found]))


def test_arms_of_different_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="'a' and 'b' were not graded on the same rows"):
        compare(card("a", [True]), card("b", [True, True]), task())


def test_a_metric_that_rows_lack_is_named() -> None:
    with pytest.raises(ValueError, match="metric 'chrf' is missing in rows of a, b"):
        compare(card("a", [True]), card("b", [True]), task(), metric="chrf")
