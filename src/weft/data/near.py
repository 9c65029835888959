"""Texts that say almost the same: found by MinHash-LSH, confirmed by their exact Jaccard similarity.

Compared are the 3-character shingles of the plain text (case, punctuation and spacing do not count), or of whole
documents runs of words. Shingles that most texts hold, such as an instruction repeated in every row, are left out: they
would glue different questions together.
Deterministic. Shingles are made anew wherever they are needed: kept, they would take fifty times the room of the texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from weft.data.frequent import in_most
from weft.records import Conversation

if TYPE_CHECKING:
    from weft.data.sketches import Members

THRESHOLD = 0.8
"""Jaccard similarity from which two texts are near duplicates."""

_SHINGLE = 3
_RUN, _MOST_WORDS = 5, 2000
_COMMON_SHARE = 0.5
_FEW_TEXTS = 20
_MOST_HELD, _CHARACTERS_HELD = 256, 300_000
"""Texts, and characters of them, whose shingles are held at a time while they are compared: some 30 MB."""
# Signs of arithmetic stay: 3+4 is not 3-4.
_NOT_WORD = re.compile(r"(?:[\s_.,;:!?'\"\u201c\u201d\u2018\u2019\u00ab\u00bb()\[\]{}\u2026`]|-(?!\d))+")


def asked(example: Conversation) -> str:
    """What duplicates are judged by: all that the user says. A "yes" late in a dialogue is not the same question."""
    return "\n".join(message.content for message in example.prompt if message.role == "user")


def plain(text: str) -> str:
    """The text without case, punctuation and spacing; where nothing but those is there, the text itself."""
    return _NOT_WORD.sub(" ", text.casefold()).strip() or text.strip()


def digest(text: str) -> bytes:
    """Stands for the plain text: equal for equal ones alone, but for an accident in 2^64."""
    return hashlib.blake2b(plain(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


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
    first: dict[bytes, int] = {}
    own = [first.setdefault(digest(text), index) for index, text in enumerate(texts)]
    starts = list(first.values())
    groups = _groups(_Distinct(texts, starts, shingles), threshold)
    places = {index: place for place, index in enumerate(starts)}
    return tuple(starts[groups[places[index]]] for index in own)


class _Distinct:
    """The distinct plain texts, by their place among them, and their shingles, made anew each time."""

    def __init__(self, texts: Sequence[str], starts: Sequence[int], taken_apart: Shingles) -> None:
        self._texts, self._starts, self._taken_apart = texts, starts, taken_apart
        self.common = in_most(self._all, _COMMON_SHARE) if len(starts) >= _FEW_TEXTS else frozenset()

    def __len__(self) -> int:
        return len(self._starts)

    def _all(self) -> Iterator[frozenset[str]]:
        return (self._whole(place) for place in range(len(self)))

    def _whole(self, place: int) -> frozenset[str]:
        return self._taken_apart(plain(self._texts[self._starts[place]]))

    def telling(self) -> Iterator[frozenset[str]]:
        """Of each text the shingles that tell it from others."""
        return (self._telling(own) for own in self._all())

    def _telling(self, own: frozenset[str]) -> frozenset[str]:
        """Without the common shingles; a set of nothing else stays as it is."""
        return (own - self.common or own) if self.common else own

    def both(self, place: int) -> tuple[frozenset[str], frozenset[str]]:
        """What tells the text from others, and all of it."""
        own = self._whole(place)
        return self._telling(own), own

    def held(self, places: Members) -> Iterator[Members]:
        """`places` in parts whose shingles can be held at a time."""
        start = characters = 0
        for at, place in enumerate(places.tolist()):
            size = len(self._texts[self._starts[place]])
            if at > start and (at - start == _MOST_HELD or characters + size > _CHARACTERS_HELD):
                yield places[start:at]
                start, characters = at, 0
            characters += size
        yield places[start:]


def _groups(texts: _Distinct, threshold: float) -> list[int]:
    """For each distinct text the lowest place of those it is connected with, over pairs at or above the threshold."""
    if len(texts) < 2:
        return list(range(len(texts)))
    import numpy as np

    from weft.data.sketches import Sketches

    sketches = Sketches(texts.telling(), len(texts))
    groups = np.arange(len(texts))
    members: dict[int, list[int]] = {}
    for band, bucket in sketches.buckets():
        for part in texts.held(bucket):
            if (groups[bucket] == groups[bucket[0]]).all():
                break
            sets: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
            for right in bucket[bucket > part[0]].tolist():
                lefts = part[(part < right) & (groups[part] != groups[right])]
                mine = None
                for left in sketches.likely(band, lefts, right, threshold).tolist() if len(lefts) else ():
                    if groups[left] == groups[right]:
                        continue
                    mine = mine or texts.both(right)
                    theirs = sets[left] = sets.get(left) or texts.both(left)
                    # Both ways: what is left without the common shingles may be too little to judge by alone.
                    if all(_alike(a, b, threshold) for a, b in zip(mine, theirs, strict=True)):
                        _join(groups, members, left, right)
    _, lowest, named = np.unique(groups, return_index=True, return_inverse=True)
    return lowest[named].tolist()


def _join(groups: Members, members: dict[int, list[int]], left: int, right: int) -> None:
    """Make the groups of two texts one, under the name of the larger."""
    pair = int(groups[left]), int(groups[right])
    small, large = sorted(pair, key=lambda group: len(members.get(group, (group,))))
    gone = members.pop(small, [small])
    groups[gone] = large
    members.setdefault(large, [large]).extend(gone)


def _alike(left: frozenset[str], right: frozenset[str], threshold: float) -> bool:
    both = len(left & right)
    return both >= threshold * (len(left) + len(right) - both)
