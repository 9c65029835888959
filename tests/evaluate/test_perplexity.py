"""Perplexity and its intervals against formulas and transformers."""

from __future__ import annotations

import numpy as np
import pytest

from weft.evaluate.perplexity import perplexity_change


def test_perplexity_is_e_to_the_mean_over_all_tokens() -> None:
    found = perplexity_change([10.0, 60.0], [5.0, 30.0], [10, 20])
    assert (found.documents, found.tokens) == (2, 30)
    assert found.before.value == pytest.approx(np.exp(70 / 30))
    assert found.after.value == pytest.approx(np.exp(35 / 30))
    assert found.ratio.value == pytest.approx(found.after.value / found.before.value)
    # With two documents, what is drawn is one of them twice or both.
    assert (found.before.low, found.before.high) == pytest.approx((np.exp(1), np.exp(3)))
    assert set(found.to_json()) == {"documents", "tokens", "before", "after", "ratio", "p"}


def test_a_model_compared_with_itself_has_not_changed() -> None:
    nats = np.linspace(3, 9, 20)
    found = perplexity_change(nats, nats, np.full(20, 4))
    assert (found.ratio.value, found.ratio.low, found.ratio.high, found.p) == (1.0, 1.0, 1.0, 1.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for trial in range(100):
        tokens = rng.integers(5, 200, 60)
        before = tokens * rng.normal(3.0, 0.5, 60)
        after = before - tokens * rng.normal(0.1, 0.3, 60)
        ratio = perplexity_change(before, after, tokens, seed=trial).ratio
        held += ratio.low <= np.exp(-0.1) <= ratio.high
    assert 86 <= held <= 99
