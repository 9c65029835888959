"""Schedules at points that paper can check."""

from __future__ import annotations

import math

import pytest

from weft.train import schedules as s


def test_warm_up_is_a_straight_line_that_reaches_one_after_its_steps():
    assert [s.constant(step, warmup=3) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_no_warm_up_begins_at_the_peak():
    assert s.linear(0, 10) == s.cosine(0, 10) == s.wsd(0, 10, decay=2) == s.constant(0) == 1.0


def test_linear_is_half_way_in_the_middle_and_final_at_the_end():
    assert s.linear(60, 110, warmup=10) == pytest.approx(0.5)
    assert s.linear(110, 110, warmup=10, final=0.1) == pytest.approx(0.1)


def test_cosine_follows_the_cosine():
    for step in (10, 35, 60, 110):
        assert s.cosine(step, 110, warmup=10, final=0.1) == pytest.approx(
            0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        )


def test_cosine_is_that_of_torch():
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert s.cosine(step, 20) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        peer.step()


def test_wsd_holds_the_peak_until_the_decay_begins():
    assert [s.wsd(step, 100, warmup=4, decay=20) for step in (4, 50, 80)] == [1.0, 1.0, 1.0]
    assert s.wsd(90, 100, warmup=4, decay=20) == pytest.approx(0.5)
    assert s.wsd(100, 100, warmup=4, decay=20, final=0.02) == pytest.approx(0.02)


def test_wsd_before_its_decay_does_not_depend_on_the_length():
    assert [s.wsd(i, 1000, warmup=5, decay=100) for i in range(80)] == [
        s.wsd(i, 200, warmup=5, decay=100) for i in range(80)
    ]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_every_schedule_stays_between_zero_and_one_past_its_end(name):
    rates = [s.rate(name, step, 30, warmup=5, decay=10, final=0.0) for step in range(40)]
    assert all(0.0 <= r <= 1.0 for r in rates)
    assert rates[4] < rates[5] == 1.0
