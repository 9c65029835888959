"""Words and what they mean, from Princeton WordNet 3.0: read from its `data.*` and `index.*` files, laid out as pages.

The files are those of Debian's package `wordnet-base` or of the project's own archive; `wndb(5WN)` describes them. Left
out: names (what begins with a capital letter), animals and plants, whose entries are mostly Latin, insults, and
senses that WordNet neither met in its texts nor shows in use: a small model has no room for rare words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from .text import grams

PARTS = ("noun", "verb", "adj", "adv")
ARTIFACT, FOOD = 6, 13
SKIPPED = (5, 20)
"""Numbers of lexicographer files (`lexnames(5WN)`): things made by people, food; animals and plants."""
_UNKIND = re.compile(r"offensive|disparag|derogat|ethnic slur|obscene|vulgar|slang|contempt")
"""What the definitions of words say that nobody should learn here."""
ON_A_PAGE = 40
"""Entries of a page: neighbours in the files, and so near in meaning."""


@dataclass(frozen=True)
class Meaning:
    """One sense that some words share."""

    words: tuple[str, ...]
    kinds: tuple[str, ...]
    """What it is a kind of, in a word each; only nouns and verbs have some."""
    field: int
    """Its lexicographer file: food, feeling, possession, …"""
    text: str
    """The definition."""
    used: tuple[str, ...]
    """Sentences or phrases that use one of the words."""


def read(folder: Path, banned: Set[int] = frozenset()) -> list[Meaning]:
    """Senses in the order of the files, without those that share a run of words with `banned` (`text.forbidden_grams`).

    Raises FileNotFoundError where one of the files is missing.
    """
    met = {key for part in PARTS for line in _lines(folder / f"index.{part}") for key in _met(line)}
    entries = [_Entry.of(line) for part in PARTS for line in _lines(folder / f"data.{part}")]
    first_word = {entry.key: entry.words[0] for entry in entries}
    kept = [
        Meaning(entry.words, tuple(first_word[k] for k in entry.kinds), entry.field, entry.text, entry.used)
        for entry in entries
        if (entry.used or entry.key in met)
        and entry.text
        and entry.field not in SKIPPED
        and not _UNKIND.search(entry.text)
        and not any(word[0].isupper() for word in entry.words)
    ]
    return [meaning for meaning in kept if banned.isdisjoint(grams(entry(meaning)))]


def _lines(path: Path) -> list[str]:
    """All but the licence at the beginning."""
    return [line for line in path.read_text("utf-8").splitlines() if not line.startswith("  ")]


def _met(line: str) -> list[tuple[str, str]]:
    """Keys of the senses of a line of an `index.*` file that WordNet's texts contain: the first so many."""
    _, part, senses, pointers, *rest = line.split()
    met, offsets = int(rest[int(pointers) + 1]), rest[int(pointers) + 2 :]
    return [(part, offset) for offset in offsets[: min(met, int(senses))]]


@dataclass(frozen=True)
class _Entry:
    """A line of a `data.*` file: offset, field, part of speech, words, pointers | definition; "use"; "use"."""

    key: tuple[str, str]
    words: tuple[str, ...]
    kinds: tuple[tuple[str, str], ...]
    field: int
    text: str
    used: tuple[str, ...]

    @classmethod
    def of(cls, line: str) -> _Entry:
        head, gloss = line.split(" | ", 1)
        offset, field, part, count, *rest = head.split()
        end = 2 * int(count, 16)
        words = tuple(word.split("(")[0].replace("_", " ") for word in rest[:end:2])
        pointers = rest[end + 1 : end + 1 + 4 * int(rest[end])]
        kinds = tuple((pointers[i + 2], pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] == "@")
        parts = [part.strip() for part in gloss.split(";")]
        used = [part.strip('" ') for part in parts if part.startswith('"')]
        text = "; ".join(part for part in parts if part and not part.startswith('"'))
        plain = tuple(use for use in used if use and '"' not in use)  # the others go on with who said it
        return cls((part.replace("s", "a"), offset), words, kinds, int(field), text, plain)


def entry(meaning: Meaning) -> str:
    """As a dictionary would print it."""
    kind = f" (a kind of {meaning.kinds[0]})" if meaning.kinds and meaning.kinds[0] not in meaning.words else ""
    return " ".join([f"{', '.join(meaning.words[:4])}{kind}: {meaning.text}.", *map(sentence, meaning.used[:3])])


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def pages(meanings: Sequence[Meaning]) -> list[str]:
    """Dictionary pages, each of one field."""
    by_field: dict[int, list[str]] = defaultdict(list)
    for meaning in meanings:
        by_field[meaning.field].append(entry(meaning))
    return [
        "\n".join(entries[start : start + ON_A_PAGE])
        for _, entries in sorted(by_field.items())
        for start in range(0, len(entries), ON_A_PAGE)
    ]


def groups(meanings: Sequence[Meaning], least: int = 8) -> dict[str, list[str]]:
    """Kind → the words that are of this kind, for kinds of at least so many."""
    found: dict[str, list[str]] = defaultdict(list)
    for meaning in meanings:
        for kind in meaning.kinds:
            if meaning.words[0] != kind and meaning.words[0] not in found[kind]:
                found[kind].append(meaning.words[0])
    return {kind: words for kind, words in sorted(found.items()) if len(words) >= least}
