"""Train, validation and test: by near-duplicate cluster, stratified by label, decided by content.

Each cluster of near-duplicate questions goes to one part as a whole. Which one is decided by a hash of the seed and the
cluster's smallest member, so the order of the file does not count and adding rows leaves old rows where they were.
What can still move when rows are added, all of it rare:
- a cluster that a new row joins with a smaller hash, or ties to another cluster, is decided anew;
- each label of 10 or more clusters always has its first cluster by hash in test and the second in validation,
  however the hash falls: a new first one can send the old one back;
- beyond MAX_VALIDATION and MAX_TEST rows, those last by hash go to train.
Exact repetitions of a conversation are kept in train and counted once in validation and test.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.data import near
from weft.errors import UsageError
from weft.records import Conversation, Split, SplitName

MAX_VALIDATION = 1000
MAX_TEST = 2000
_OWN_STRATUM = 10
"""Clusters from which a label is stratified by itself; rarer labels share one stratum."""


@dataclass(frozen=True, slots=True)
class _Cluster:
    members: tuple[int, ...]
    label: str
    place: float
    """Where its hash falls in 0 … 1."""
    guaranteed: bool = False
    """In its part because the part would lack the label otherwise."""


def split(
    examples: Sequence[Conversation],
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    shingles: near.Shingles = near.letters,
) -> Split:
    """The three parts, each in the order of `examples`; `labels` gives one label per example to stratify by.

    `validation` and `test` are the wanted shares of clusters. Fewer than 3 clusters all go to train, 3 or more leave no
    part empty. `shingles`: what near duplicates are compared by. Raises UsageError for shares that leave nothing to
    train on, or labels that do not match.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise UsageError(f"split: validation={validation} and test={test}; expected shares above 0, together below 1.")
    if labels is not None and len(labels) != len(examples):
        raise UsageError(f"split: {len(labels)} labels for {len(examples)} examples; expected one for each.")
    parts: dict[SplitName, list[_Cluster]] = {"train": [], "validation": [], "test": []}
    for stratum in _strata(_clusters(examples, labels, seed, shingles)):
        for name, cluster in _assigned(stratum, validation, test):
            parts[name].append(cluster)
    parts["validation"], surplus = _limited(parts["validation"], MAX_VALIDATION)
    parts["test"], more = _limited(parts["test"], MAX_TEST)
    parts["train"] += [*surplus, *more]
    return Split(
        train=_rows(examples, parts["train"]),
        validation=_once(_rows(examples, parts["validation"])),
        test=_once(_rows(examples, parts["test"])),
    )


def _clusters(
    examples: Sequence[Conversation], labels: Sequence[str] | None, seed: int, shingles: near.Shingles
) -> list[_Cluster]:
    texts = [near.asked(example) for example in examples]
    members: dict[int, list[int]] = defaultdict(list)
    for index, first in enumerate(near.clusters(texts, shingles=shingles)):
        members[first].append(index)
    clusters = []
    for rows in members.values():
        # The plain text, so that a repetition in other letters cannot move its cluster.
        digests = [_hash(near.plain(texts[row])) for row in rows]
        smallest = min(digests)
        place = int(_hash(f"{seed}:{smallest}")[:16], 16) / 16**16
        label = (
            min(labels[row] for row, digest in zip(rows, digests, strict=True) if digest == smallest) if labels else ""
        )
        clusters.append(_Cluster(tuple(rows), label, place))
    return clusters


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _strata(clusters: Sequence[_Cluster]) -> list[list[_Cluster]]:
    """The clusters of each frequent label, and those of all rare labels together, in the order of their hash."""
    by_label: dict[str, list[_Cluster]] = defaultdict(list)
    for cluster in sorted(clusters, key=lambda cluster: (cluster.place, cluster.members)):
        by_label[cluster.label].append(cluster)
    frequent = [own for own in by_label.values() if len(own) >= _OWN_STRATUM]
    rare = [cluster for own in by_label.values() if len(own) < _OWN_STRATUM for cluster in own]
    return [*frequent, sorted(rare, key=lambda cluster: (cluster.place, cluster.members))]


def _assigned(stratum: Sequence[_Cluster], validation: float, test: float) -> list[tuple[SplitName, _Cluster]]:
    """By hash: below `test` to test, the next share to validation, the rest to train; each part gets at least one."""
    if len(stratum) < 3:
        return [("train", cluster) for cluster in stratum]
    tested = max(1, sum(cluster.place < test for cluster in stratum))
    tested = min(tested, len(stratum) - 2)
    validated = max(1, sum(cluster.place < test + validation for cluster in stratum) - tested)
    validated = min(validated, len(stratum) - tested - 1)
    assigned: list[tuple[SplitName, _Cluster]] = []
    for index, cluster in enumerate(stratum):
        name: SplitName = "test" if index < tested else "validation" if index < tested + validated else "train"
        assigned.append((name, replace(cluster, guaranteed=index in (0, tested))))
    return assigned


def _limited(clusters: Sequence[_Cluster], limit: int) -> tuple[list[_Cluster], list[_Cluster]]:
    """The clusters that fit into `limit` rows, first those that are guaranteed, then by hash; and the rest."""
    kept: list[_Cluster] = []
    rest: list[_Cluster] = []
    rows = 0
    for cluster in sorted(clusters, key=lambda cluster: (not cluster.guaranteed, cluster.place, cluster.members)):
        full = bool(rest) or (bool(kept) and rows + len(cluster.members) > limit)
        (rest if full else kept).append(cluster)
        rows += len(cluster.members)
    return kept, rest


def _rows(examples: Sequence[Conversation], clusters: Sequence[_Cluster]) -> tuple[Conversation, ...]:
    return tuple(examples[row] for row in sorted(row for cluster in clusters for row in cluster.members))


def _once(examples: Sequence[Conversation]) -> tuple[Conversation, ...]:
    """The first of each group of equal conversations; the line does not count."""
    return tuple({example.identity: example for example in reversed(examples)}.values())[::-1]
