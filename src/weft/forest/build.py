"""Token sequences become a forest: where their beginnings agree they are one, and each distinct beginning stands once.

    row 0   S S S S a b c          node 0: S S S S ──┬── node 1: a b c
    row 1   S S S S d e                              └── node 2: d e

Beginnings are compared by token id, never by text. Nodes lie depth first behind each other, so that everything below
a node is one stretch of the flat array. A beginning is shared where that saves MIN_SAVED tokens; below that the
bookkeeping costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from weft.records import Tokens

MIN_SAVED = 32
"""Fewest tokens that sharing a beginning must save."""
LONGEST = 256
"""Longer runs are chains of nodes, so that causal attention is not computed above its diagonal."""


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens: flat places `start` … `start + length`, its subtree ends at `end`; `depth` tokens precede it."""

    start: int
    length: int
    end: int
    depth: int
    parent: int
    """Number of the parent node, -1 for a root."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Flat tokens, the tree above them, and what is to be predicted from where."""

    ids: np.ndarray
    """(T,) token ids."""
    positions: np.ndarray
    """(T,) place of each token in its sequence."""
    nodes: tuple[Node, ...]
    """Parents before children; in the order of `start`."""
    sources: np.ndarray
    """(N,) flat place of the state that predicts each learned token, row after row."""
    targets: np.ndarray
    """(N,) the learned tokens."""
    counts: tuple[int, ...]
    """Learned tokens of each row."""
    places: tuple[np.ndarray, ...]
    """Flat place of each token of each row."""


def plant(rows: Sequence[Tokens], min_saved: int = MIN_SAVED, longest: int = LONGEST) -> Forest:
    """The forest of these rows. Raises ValueError for an empty row and one whose first token is to be learned."""
    for number, row in enumerate(rows):
        if not row.ids or row.learn[0]:
            raise ValueError(f"row {number}: expected tokens, the first of which is not learned: nothing precedes it")
    runs = _Runs(rows, min_saved, longest)
    order = sorted(range(len(rows)), key=lambda row: rows[row].ids)
    runs.grow(order)
    nodes, ids, paths = runs.nodes, runs.ids, runs.paths
    positions = np.concatenate([np.arange(node.depth, node.depth + node.length) for node in nodes])
    places = []
    for row in range(len(rows)):
        stretches = [np.arange(nodes[n].start, nodes[n].start + nodes[n].length) for n in paths[row]]
        places.append(np.concatenate(stretches))
    learned = [np.flatnonzero(row.learn) for row in rows]
    sources = [place[which - 1] for place, which in zip(places, learned, strict=True)]
    targets = [np.asarray(row.ids, dtype=np.int64)[which] for row, which in zip(rows, learned, strict=True)]
    return Forest(
        ids=np.asarray(ids, dtype=np.int64),
        positions=positions,
        nodes=tuple(nodes),
        sources=np.concatenate(sources),
        targets=np.concatenate(targets),
        counts=tuple(len(which) for which in learned),
        places=tuple(places),
    )


def agreed(first: Sequence[int], second: Sequence[int], known: int = 0) -> int:
    """How many tokens both begin with; `known`: so many they do in any case."""
    low, high = known, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Group(NamedTuple):
    """Sorted rows whose tokens from `start` on are to be placed below `parent`; they agree up to `known`."""

    rows: Sequence[int]
    start: int
    known: int
    parent: int


class _Closing(NamedTuple):
    """The subtrees of the nodes `opened` … `last` are complete."""

    opened: int
    last: int


class _Runs:
    """The trie of sorted rows, collapsed to runs while it is walked."""

    def __init__(self, rows: Sequence[Tokens], min_saved: int, longest: int) -> None:
        self.rows, self.min_saved, self.longest = rows, min_saved, longest
        self.nodes: list[Node] = []
        self.ids: list[int] = []
        self.paths: dict[int, list[int]] = {}

    def grow(self, order: Sequence[int]) -> None:
        """Place all rows, given in sorted order."""
        waiting: list[_Group | _Closing] = [_Group(order, 0, 0, -1)] if order else []
        while waiting:
            task = waiting.pop()
            if isinstance(task, _Closing):
                self._close(task.opened, task.last)
            else:
                waiting += reversed(self._grown(task))

    def _grown(self, group: _Group) -> list[_Group | _Closing]:
        """Place what the rows of the group share, where that pays; what is left to do, in order."""
        rows, start, parent = group.rows, group.start, group.parent
        first, last = self.rows[rows[0]].ids, self.rows[rows[-1]].ids
        if len(rows) == 1:
            self._settle(rows, self._run(first, start, len(first), parent))
            return []
        common = agreed(first, last, group.known)
        ended = [row for row in rows if len(self.rows[row].ids) == common]
        if common == start or (common - start) * (len(rows) - 1) < self.min_saved:
            parts = [[row] for row in ended] + self._parts(rows, common)
            return [_Group(part, start, common, parent) for part in parts]
        opened = len(self.nodes)
        below = self._run(first, start, common, parent)
        self._settle(ended, below)
        parts = [_Group(part, common, common, below) for part in self._parts(rows, common)]
        return [*parts, _Closing(opened, below)]

    def _parts(self, group: Sequence[int], at: int) -> list[list[int]]:
        """The rows that go on, by their token at `at`."""
        parts: list[list[int]] = []
        for row in group:
            ids = self.rows[row].ids
            if len(ids) <= at:
                continue
            if parts and self.rows[parts[-1][0]].ids[at] == ids[at]:
                parts[-1].append(row)
            else:
                parts.append([row])
        return parts

    def _run(self, ids: Sequence[int], start: int, stop: int, parent: int) -> int:
        """Nodes for the tokens `start` … `stop`; returns the last one. An empty run is its parent."""
        opened = len(self.nodes)
        for begin in range(start, stop, self.longest):
            end = min(begin + self.longest, stop)
            self.nodes.append(Node(len(self.ids), end - begin, len(self.ids) + end - begin, begin, parent))
            self.ids += ids[begin:end]
            parent = len(self.nodes) - 1
        self._close(opened, parent)
        return parent

    def _close(self, opened: int, last: int) -> None:
        """The nodes from `opened` to `last` reach to the present end of the flat array."""
        for number in range(opened, last + 1):
            node = self.nodes[number]
            self.nodes[number] = Node(node.start, node.length, len(self.ids), node.depth, node.parent)

    def _settle(self, rows: Sequence[int], leaf: int) -> None:
        path = []
        while leaf >= 0:
            path.append(leaf)
            leaf = self.nodes[leaf].parent
        for row in rows:
            self.paths[row] = path[::-1]
