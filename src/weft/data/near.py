"""Texts that say almost the same: found by MinHash-LSH, confirmed by their exact Jaccard similarity.

Compared are the 3-character shingles of the plain text (case, punctuation and spacing do not count), or of whole
documents runs of words. Shingles that most texts hold, such as an instruction repeated in every row, are left out: they
would glue different questions together.
Deterministic. The MinHash is rensa's (Broder 1997).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from weft.records import Conversation

THRESHOLD = 0.8
"""Jaccard similarity from which two texts are near duplicates."""

_SHINGLE = 3
_RUN, _MOST_WORDS = 5, 2000
# 24 bands of 8: a pair at 0.8 is met with 99 %, one at 0.5 with 9 %.
_PERMUTATIONS, _BANDS, _SEED = 192, 24, 20
_COMMON_SHARE = 0.5
_FEW_TEXTS = 20
# Signs of arithmetic stay: 3+4 is not 3-4.
_NOT_WORD = re.compile(r"(?:[\s_.,;:!?'\"\u201c\u201d\u2018\u2019\u00ab\u00bb()\[\]{}\u2026`]|-(?!\d))+")


def asked(example: Conversation) -> str:
    """What duplicates are judged by: all that the user says. A "yes" late in a dialogue is not the same question."""
    return "\n".join(message.content for message in example.prompt if message.role == "user")


def plain(text: str) -> str:
    """The text without case, punctuation and spacing; where nothing but those is there, the text itself."""
    return _NOT_WORD.sub(" ", text.casefold()).strip() or text.strip()


def letters(text: str) -> frozenset[str]:
    """The runs of three characters: what short texts are compared by."""
    padded = f" {text} "
    return frozenset(padded[at : at + _SHINGLE] for at in range(max(1, len(padded) - _SHINGLE + 1)))


def words(text: str) -> frozenset[str]:
    """The runs of five words among the first 2,000: what documents are compared by, which all hold the same letters."""
    listed = text.split(maxsplit=_MOST_WORDS)[:_MOST_WORDS]
    return frozenset(" ".join(listed[at : at + _RUN]) for at in range(max(1, len(listed) - _RUN + 1)))


Shingles = Callable[[str], frozenset[str]]


def clusters(texts: Sequence[str], *, threshold: float = THRESHOLD, shingles: Shingles = letters) -> tuple[int, ...]:
    """For each text the index of the first text of its cluster: near duplicates, and near duplicates of those."""
    first: dict[str, int] = {}
    own = [first.setdefault(plain(text), index) for index, text in enumerate(texts)]
    distinct = list(first)
    parents = list(range(len(distinct)))
    for left, right in _pairs(distinct, threshold, shingles):
        low, high = sorted((_root(parents, left), _root(parents, right)))
        parents[high] = low
    places = {index: position for position, index in enumerate(first.values())}
    starts = list(first.values())
    return tuple(starts[_root(parents, places[index])] for index in own)


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


def _pairs(texts: Sequence[str], threshold: float, taken_apart: Shingles) -> Iterator[tuple[int, int]]:
    """Pairs of distinct plain texts at or above the threshold."""
    from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]

    if len(texts) < 2:
        return
    whole = [taken_apart(text) for text in texts]
    shingles = _without_common(whole)
    hashes = RMinHash.from_token_sets([list(own) for own in shingles], _PERMUTATIONS, _SEED)
    index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    index.insert_many(hashes)
    for left, sketch in enumerate(hashes):
        for right in index.query(sketch):
            # Both ways: what is left without the common shingles may be too little to judge by alone.
            if right > left and all(_alike(sets[left], sets[right], threshold) for sets in (shingles, whole)):
                yield left, right


def _alike(left: frozenset[str], right: frozenset[str], threshold: float) -> bool:
    both = len(left & right)
    return both >= threshold * (len(left) + len(right) - both)


def _without_common(sets: list[frozenset[str]]) -> list[frozenset[str]]:
    """Each set without the shingles of most texts; a set of nothing else stays as it is."""
    if len(sets) < _FEW_TEXTS:
        return sets
    counts: Counter[str] = Counter()
    for own in sets:
        counts.update(own)
    common = {shingle for shingle, number in counts.items() if number > _COMMON_SHARE * len(sets)}
    return [own - common or own for own in sets] if common else sets
