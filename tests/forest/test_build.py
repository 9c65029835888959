"""The forest of some rows: nothing is lost, nothing stands twice that should stand once, and it lies as it promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.forest.trees import for_all, forests, forms, row
from weft.forest import build
from weft.forest.build import Forest, plant
from weft.records import Tokens

SETTINGS: dict[str, Any] = {
    "rows": forests(),
    "min_saved": st.sampled_from([1, 2, 5, 32, 10**9]),
    "longest": st.sampled_from([1, 2, 3, 7, 256]),
}


def _beginnings(rows: Sequence[Tokens]) -> int:
    return len({row.ids[:stop] for row in rows for stop in range(1, len(row.ids) + 1)})


def _total(rows: Sequence[Tokens]) -> int:
    return sum(len(row.ids) for row in rows)


@forms(short=40, long=1000)
def test_every_row_is_read_back_from_its_places(examples: int) -> None:
    @for_all(examples, **SETTINGS)
    def holds(rows: list[Tokens], min_saved: int, longest: int) -> None:
        forest = plant(rows, min_saved, longest)
        assert len(forest.places) == len(rows)
        for given, places in zip(rows, forest.places, strict=True):
            assert tuple(forest.ids[places]) == given.ids
            assert (forest.positions[places] == np.arange(len(given.ids))).all()
            assert (np.diff(places) > 0).all()
        assert set(np.concatenate(forest.places)) == set(range(len(forest.ids)))  # no token of nobody


@forms(short=40, long=1000)
def test_nodes_lie_depth_first_and_every_subtree_is_one_stretch(examples: int) -> None:
    @for_all(examples, **SETTINGS)
    def holds(rows: list[Tokens], min_saved: int, longest: int) -> None:
        nodes = plant(rows, min_saved, longest).nodes
        at = 0
        for number, node in enumerate(nodes):
            assert node.start == at and 1 <= node.length <= longest
            at += node.length
            if node.parent < 0:
                assert node.depth == 0
            else:
                parent = nodes[node.parent]
                assert node.parent < number and node.depth == parent.depth + parent.length
                assert parent.start + parent.length <= node.start and node.end <= parent.end
            below = [n for n, other in enumerate(nodes) if number in _ancestors(nodes, n)]
            assert node.end == max([nodes[n].start + nodes[n].length for n in (*below, number)])
            assert all(nodes[n].start < node.end for n in below)


def _ancestors(nodes: Sequence[build.Node], number: int) -> list[int]:
    found = []
    while (number := nodes[number].parent) >= 0:
        found.append(number)
    return found


@forms(short=40, long=1000)
def test_a_row_is_a_path_from_a_root(examples: int) -> None:
    @for_all(examples, **SETTINGS)
    def holds(rows: list[Tokens], min_saved: int, longest: int) -> None:
        forest = plant(rows, min_saved, longest)
        for places in forest.places:
            path = [n for n, node in enumerate(forest.nodes) if node.start in places]
            stretches = [np.arange(node.start, node.start + node.length) for node in (forest.nodes[n] for n in path)]
            assert (np.concatenate(stretches) == places).all()
            assert [forest.nodes[n].parent for n in path] == [-1, *path[:-1]]


@forms(short=40, long=1000)
def test_each_distinct_beginning_stands_once_where_any_saving_counts(examples: int) -> None:
    @for_all(examples, rows=forests(), longest=SETTINGS["longest"])
    def holds(rows: list[Tokens], longest: int) -> None:
        assert len(plant(rows, 1, longest).ids) == _beginnings(rows)


@forms(short=40, long=1000)
def test_sharing_saves_what_it_must_and_no_row_costs_more_than_apart(examples: int) -> None:
    @for_all(examples, **SETTINGS)
    def holds(rows: list[Tokens], min_saved: int, longest: int) -> None:
        forest = plant(rows, min_saved, longest)
        runs: dict[frozenset[int], int] = {}
        for node in forest.nodes:
            through = frozenset(n for n, places in enumerate(forest.places) if node.start in places)
            runs[through] = runs.get(through, 0) + node.length
        assert all(length * (len(through) - 1) >= min_saved for through, length in runs.items() if len(through) > 1)
        assert _beginnings(rows) <= len(forest.ids) <= _total(rows)
        if min_saved == 10**9:
            assert len(forest.ids) == _total(rows)


@forms(short=40, long=1000)
def test_each_learned_token_is_predicted_from_the_state_before_it(examples: int) -> None:
    @for_all(examples, **SETTINGS)
    def holds(rows: list[Tokens], min_saved: int, longest: int) -> None:
        forest = plant(rows, min_saved, longest)
        edges = [
            (places[place - 1], token)
            for row, places in zip(rows, forest.places, strict=True)
            for place, (token, learned) in enumerate(zip(row.ids, row.learn, strict=True))
            if learned
        ]
        assert list(zip(forest.sources, forest.targets, strict=True)) == edges
        assert forest.counts == tuple(sum(row.learn) for row in rows)


def _shape(forest: Forest) -> list[tuple[int, int, int]]:
    return [(node.start, node.length, node.parent) for node in forest.nodes]


def test_the_first_token_of_a_leaf_is_predicted_from_its_parents_last_state() -> None:
    forest = plant([row(9, 9, 9, 1, 2, learn=2), row(9, 9, 9, 4, learn=1)], min_saved=1)
    assert _shape(forest) == [(0, 3, -1), (3, 2, 0), (5, 1, 0)]
    assert forest.sources.tolist() == [2, 3, 2] and forest.targets.tolist() == [1, 2, 4]


def test_a_row_that_ends_where_another_goes_on_needs_no_leaf() -> None:
    forest = plant([row(1, 2, 3, 4), row(1, 2, 3), row(1, 2, 3)], min_saved=1)
    assert _shape(forest) == [(0, 3, -1), (3, 1, 0)]
    assert [places.tolist() for places in forest.places] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert forest.sources.tolist() == [2, 1, 1]


def test_equal_rows_stand_once() -> None:
    assert _shape(plant([row(5, 6, 7)] * 4, min_saved=1)) == [(0, 3, -1)]


def test_rows_that_share_nothing_are_roots_beside_each_other() -> None:
    assert _shape(plant([row(3, 1), row(1, 1), row(2, 1)], min_saved=1)) == [(0, 2, -1), (2, 2, -1), (4, 2, -1)]


def test_a_long_run_is_a_chain_and_its_subtrees_reach_to_the_end() -> None:
    nodes = plant([row(*range(10), 50), row(*range(10), 60)], min_saved=1, longest=4).nodes
    assert [(n.start, n.length, n.end, n.depth, n.parent) for n in nodes] == [
        (0, 4, 12, 0, -1), (4, 4, 12, 4, 0), (8, 2, 12, 8, 1), (10, 1, 11, 10, 2), (11, 1, 12, 10, 2),
    ]  # fmt: skip


def test_a_beginning_too_short_for_all_may_still_be_worth_it_for_some() -> None:
    apart, together = [row(1, 2, 100 + n) for n in range(3)], [row(1, 2, *range(40), 200 + n) for n in range(2)]
    forest = plant([*apart, *together], min_saved=32)
    assert len(forest.ids) == _total(apart) + 42 + 2


def test_the_order_of_rows_does_not_change_the_tree() -> None:
    rows = [row(1, 2, 3), row(4, 5), row(1, 2, 9), row(1, 2)]
    assert _shape(plant(rows, 1)) == _shape(plant(rows[::-1], 1))


def test_twelve_hundred_rows_that_each_go_on_from_the_last_are_one_path() -> None:
    rows = [row(*range(stop)) for stop in range(2, 1202)]
    assert len(plant(rows, min_saved=1).ids) == 1201
