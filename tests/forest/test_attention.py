"""Attention by parts is softmax attention under the mask that the rows themselves describe, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.forest.trees import for_all, forests, forms, row, seen_by_rows
from weft.forest import attention
from weft.forest.attention import ForestAttention, attend, dense_mask, plan
from weft.forest.build import Forest, plant
from weft.records import Tokens

CPU = torch.device("cpu")
HEADS = st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (3, 1)])


def _states(forest: Forest, heads: tuple[int, int], seed: int = 0, strength: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = len(forest.ids)
    drawn = [torch.randn(size, n, 8, generator=generator) for n in (heads[0], heads[1], heads[1], heads[0])]
    return [drawn[0] * strength, *drawn[1:]]


def _by_parts(states: list[Tensor], forest: Forest, asking: np.ndarray) -> list[Tensor]:
    """Output of the asking places, then the gradients by q, k and v for the last of `states` as gradient."""
    q, k, v = (x.clone().requires_grad_() for x in states[:3])
    rows = torch.from_numpy(asking)
    out = attend(q[rows], k, v, plan(forest, asking, CPU))
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), states[3][rows])]


def _dense(states: list[Tensor], forest: Forest, asking: np.ndarray) -> list[Tensor]:
    """The same from the definition, in float64."""
    q, k, v = (x.double().requires_grad_() for x in states[:3])
    seen = torch.from_numpy(seen_by_rows(forest.places, len(forest.ids)))
    wide_k, wide_v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, wide_k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    rows = torch.from_numpy(asking)
    out = torch.einsum("hqk,khd->qhd", weights, wide_v)[rows]
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), states[3][rows].double())]


def _equal(states: list[Tensor], forest: Forest, asking: np.ndarray, within: float = 1e-5) -> None:
    for ours, theirs in zip(_by_parts(states, forest, asking), _dense(states, forest, asking), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours.double(), theirs, rtol=within, atol=within)


def _all(forest: Forest) -> np.ndarray:
    return np.arange(len(forest.ids))


@forms(short=25, long=600)
def test_all_queries_see_their_path_and_nothing_else(examples: int) -> None:
    @for_all(examples, rows=forests(), heads=HEADS, longest=st.sampled_from([1, 3, 256]))
    def holds(rows: list[Tokens], heads: tuple[int, int], longest: int) -> None:
        forest = plant(rows, 1, longest)
        _equal(_states(forest, heads), forest, _all(forest))


@forms(short=25, long=600)
def test_some_queries_are_enough_where_only_some_are_needed(examples: int) -> None:
    @for_all(examples, rows=forests(), heads=HEADS, longest=st.sampled_from([2, 256]), choice=st.randoms())
    def holds(rows: list[Tokens], heads: tuple[int, int], longest: int, choice) -> None:
        forest = plant(rows, 1, longest)
        asking = np.array(sorted(choice.sample(range(len(forest.ids)), choice.randint(1, len(forest.ids)))))
        _equal(_states(forest, heads), forest, asking)


@forms(short=15, long=300)
def test_the_dense_mask_is_what_the_rows_describe(examples: int) -> None:
    @for_all(examples, rows=forests(), longest=st.sampled_from([1, 4, 256]))
    def holds(rows: list[Tokens], longest: int) -> None:
        forest = plant(rows, 1, longest)
        assert (dense_mask(forest) == seen_by_rows(forest.places, len(forest.ids))).all()


def test_nodes_of_very_different_length_fall_into_several_groups() -> None:
    lengths = [40, 39, 38, 12, 11, 3, 2, 1]
    forest = plant([row(*[n] * length) for n, length in enumerate(lengths)], 1)
    parts = plan(forest, _all(forest), CPU)
    assert 1 < len(parts.own) < len(lengths) and not parts.above
    _equal(_states(forest, (4, 2)), forest, _all(forest))


def test_a_path_of_sixty_nodes_is_one_long_sequence() -> None:
    rows = [row(*range(stop), 500) for stop in range(1, 61)]
    forest = plant(rows, 1)
    assert max(node.depth for node in forest.nodes) == 59
    _equal(_states(forest, (4, 2)), forest, _all(forest))


def test_a_chain_of_blocks_is_plain_causal_attention() -> None:
    forest = plant([row(*range(50))], longest=8)
    states = _states(forest, (4, 2))
    q, k, v = (x.transpose(0, 1)[None] for x in states[:3])
    truth = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(
        0, 1
    )
    assert torch.allclose(_by_parts(states, forest, _all(forest))[0], truth, atol=1e-5)


def test_a_wide_ancestor_is_worked_off_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CELLS", 30)
    forest = plant([row(*range(10), 20 + n, 90) for n in range(7)], 1)
    assert len(plan(forest, _all(forest), CPU).above) > 2
    _equal(_states(forest, (4, 2)), forest, _all(forest))


@pytest.mark.parametrize("strength", [30.0, 300.0])
def test_scores_in_the_hundreds_give_no_infinity_where_nodes_are_padded(strength: float) -> None:
    forest = plant([row(1, 2, 3, *[10 + n] * (8 - n % 2)) for n in range(4)], 1)
    assert any(own.padding is not None for own in plan(forest, _all(forest), CPU).own)
    states = _states(forest, (4, 2), strength=strength)
    for ours, theirs in zip(_by_parts(states, forest, _all(forest)), _dense(states, forest, _all(forest)), strict=True):
        assert ours.isfinite().all()
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_bfloat16_stays_within_its_rounding() -> None:
    forest = plant([row(*range(12), *[30 + n] * (n + 1)) for n in range(6)], 1)
    states = _states(forest, (4, 2))
    narrow = [x.bfloat16() for x in states]
    for ours, theirs in zip(
        _by_parts(narrow, forest, _all(forest)), _dense([x.float() for x in narrow], forest, _all(forest)), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() <= 1e-2 * theirs.norm()


def test_inner_layers_ask_for_all_tokens_and_the_last_for_the_kept_ones() -> None:
    forest = plant([row(1, 2, 3, 4), row(1, 2, 5)], 1)
    keep = np.array([1, 3])
    ask = ForestAttention(forest, keep, CPU)
    q, k, v, _ = _states(forest, (4, 2))
    every = ask(0, q, k, v, False)
    assert every.shape == q.shape
    assert torch.allclose(ask(1, q[keep], k, v, True), every[keep], atol=1e-6)
