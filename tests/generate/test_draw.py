"""Drawing against small computations of its own in numpy."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from weft.generate.draw import Drawing, pick, uniform
from weft.generate.requests import Draw

LOGITS = [1.0, 2.5, -0.5, 2.0, 0.0, 2.4]


def drawing(seed: int = 0, drawn: tuple[int, ...] = (), **draw: Any) -> Drawing:
    row = Drawing(Draw(100, **draw), seed)
    for token in drawn:
        row.took(token)
    return row


def picked(row: Drawing, logits: list[float] | None = None, allowed: list[bool] | None = None) -> Any:
    mask = None if allowed is None else torch.tensor(allowed)
    return pick(torch.tensor([logits or LOGITS]), [row], [mask])[0]


def shares(count: int = 4000, **draw: Any) -> np.ndarray:
    """How often each token is drawn, over as many seeds."""
    rows = [drawing(seed, **draw) for seed in range(count)]
    tokens = Counter(one.token for one in pick(torch.tensor([LOGITS] * count), rows) if one)
    return np.array([tokens[i] / count for i in range(len(LOGITS))])


def softmax(logits: Any) -> np.ndarray:
    powers = np.exp(np.asarray(logits, float) - np.max(logits))
    return powers / powers.sum()


def test_temperature_zero_takes_the_most_probable_token() -> None:
    assert picked(drawing(temperature=0.0)).token == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    expected = softmax(np.array(LOGITS) / temperature)
    assert np.abs(shares(temperature=temperature) - expected).max() < 4 * math.sqrt(0.25 / 4000)


def test_a_nucleus_draws_among_the_fewest_tokens_that_reach_its_share() -> None:
    probabilities = softmax(LOGITS)
    order = np.argsort(-probabilities)
    count = int(np.searchsorted(probabilities[order].cumsum(), 0.7)) + 1
    expected = np.zeros(len(LOGITS))
    expected[order[:count]] = probabilities[order[:count]] / probabilities[order[:count]].sum()
    assert np.abs(shares(top_p=0.7) - expected).max() < 4 * math.sqrt(0.25 / 4000)
    assert shares(50, top_p=1e-9)[1] == 1


def test_a_nucleus_wider_than_the_first_look_is_whole() -> None:
    flat = torch.zeros(200, 3000)
    tokens = {one.token for one in pick(flat, [drawing(seed, top_p=0.9999) for seed in range(200)]) if one}
    assert max(tokens) > 2700 and len(tokens) > 150


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    assert picked(drawing(temperature=1e-6)).token == 1


def test_a_draw_depends_on_seed_and_place_alone() -> None:
    def token(seed: int, drawn: tuple[int, ...]) -> int:
        return picked(drawing(seed, drawn)).token

    rows = [drawing(7, (1, 2)), drawing(8, (1, 2)), drawing(7, (4, 4))]
    together = [one.token for one in pick(torch.tensor([LOGITS] * 3), rows) if one]
    assert together == [token(7, (1, 2)), token(8, (1, 2)), token(7, (1, 2))]
    assert len({token(seed, (1,)) for seed in range(30)}) > 2
    assert len({uniform(3, place) for place in range(100)}) == 100
    assert 0.4 < np.mean([uniform(seed, 0) for seed in range(1000)]) < 0.6


def test_penalties_are_those_of_the_documented_formula() -> None:
    drawn, frequency, presence = (1, 1, 3, 5, 1), 0.3, 0.45
    counts = Counter(drawn)
    expected = [x - counts[i] * frequency - (counts[i] > 0) * presence for i, x in enumerate(LOGITS)]
    row = drawing(0, drawn, temperature=0.0, frequency_penalty=frequency, presence_penalty=presence)
    logits = torch.tensor([LOGITS])
    assert pick(logits, [row])[0].token == int(np.argmax(expected))  # type: ignore[union-attr]
    assert logits[0].tolist() == pytest.approx(expected)


def test_penalties_may_be_negative_and_say_nothing_before_the_first_token() -> None:
    assert picked(drawing(0, temperature=0.0, presence_penalty=2.0)).token == 1
    assert picked(drawing(0, (3,), temperature=0.0, frequency_penalty=-2.0)).token == 3


def test_a_bias_is_added_before_drawing() -> None:
    assert picked(drawing(temperature=0.0, logit_bias=((4, 100.0),))).token == 4
    assert picked(drawing(temperature=0.0, logit_bias=((1, -100.0),))).token == 5
    assert picked(drawing(temperature=0.0, logit_bias=((2, 2.0), (2, 2.0)))).token == 2


def test_logprobs_are_those_of_the_unmodified_distribution() -> None:
    row = drawing(0, (1,), temperature=0.0, logit_bias=((1, -100.0),), presence_penalty=1.0, top_logprobs=3)
    one, expected = picked(row), np.log(softmax(LOGITS))
    assert one.token == 5 and one.logprob == pytest.approx(expected[5], abs=1e-5)
    assert [token for token, _ in one.top] == [1, 5, 3]
    assert [value for _, value in one.top] == pytest.approx(expected[[1, 5, 3]], abs=1e-5)


def test_logprobs_come_only_where_they_were_asked_for() -> None:
    assert picked(drawing(temperature=0.0)).logprob is None
    one = picked(drawing(temperature=0.0, top_logprobs=0))
    assert one.logprob is not None and one.top == ()


def test_a_mask_leaves_only_what_it_allows() -> None:
    allowed = [False, False, True, False, True, False]
    assert picked(drawing(temperature=0.0), allowed=allowed).token == 4
    assert {picked(drawing(seed), allowed=allowed).token for seed in range(60)} == {2, 4}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_give_no_token_and_harm_no_other_row(bad: float) -> None:
    rows = [drawing(temperature=1.0), drawing(temperature=0.0)]
    first, second = pick(torch.tensor([[0.0, bad, 0.0], [0.0, 1.0, 0.0]]), rows)
    assert first is None and second is not None and second.token == 1


def test_a_mask_that_allows_nothing_gives_no_token() -> None:
    assert picked(drawing(temperature=1.0), allowed=[False] * 6) is None
