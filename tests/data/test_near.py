"""Near duplicates are found as an exhaustive comparison finds them, and a shared template glues nothing."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from weft.data import near
from weft.data.read import read

WORDS = ["kettle", "boots", "lamp", "parcel", "refund", "late", "broken", "blue", "order", "please", "card", "help"]


def exhaustive(texts: list[str]) -> list[set[int]]:
    """Connected components of all pairs with Jaccard similarity of 3-character shingles at or above the threshold."""
    shingles = [{text[at : at + 3] for at in range(len(text) - 2)} for text in (f" {near.plain(t)} " for t in texts)]
    groups = [{index} for index in range(len(texts))]
    for left in range(len(texts)):
        for right in range(left):
            both = len(shingles[left] & shingles[right])
            if both >= near.THRESHOLD * len(shingles[left] | shingles[right]) and groups[left] is not groups[right]:
                groups[left] |= groups[right]
                for member in groups[right]:
                    groups[member] = groups[left]
    return groups


def test_clusters_are_those_of_an_exhaustive_comparison() -> None:
    random.seed(3)
    words = ["".join(random.choices("abcdefghij", k=5)) for _ in range(80)]
    texts = [" ".join(random.choices(words, k=8)) for _ in range(150)]
    texts += [text + random.choice(["!", "s", " now", " please"]) for text in texts[:60]]
    found = near.clusters(texts)
    expected = [min(group) for group in exhaustive(texts)]
    assert list(found) == expected
    assert len(set(found)) < 200


def test_texts_that_are_compared_in_small_parts_form_the_same_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(8)
    words = ["".join(random.choices("abcdefghij", k=6)) for _ in range(200)]
    texts: list[str] = []
    for _ in range(9):  # families in three kinds: alike within, and nearly so within a kind
        if len(texts) % 21 == 0:
            kind = random.choices(words, k=30)
        family = [word if random.random() < 0.85 else random.choice(words) for word in kind]
        for _ in range(7):
            changed = random.randrange(30)
            texts.append(" ".join([*family[:changed], random.choice(words), *family[changed + 1 :]]))
    random.shuffle(texts)
    expected = [min(group) for group in exhaustive(texts)]
    assert 1 < len(set(expected)) < 30
    assert list(near.clusters(texts)) == expected
    monkeypatch.setattr(near, "_MOST_HELD", 3)
    assert list(near.clusters(texts)) == expected
    monkeypatch.setattr(near, "_CHARACTERS_HELD", 10)  # less than one text
    assert list(near.clusters(texts)) == expected


def test_many_texts_that_are_all_alike_are_compared_hardly_more_than_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(9)
    kinds = [" ".join("".join(random.choices("abcdefgh", k=6)) for _ in range(30)) for _ in range(3)]
    alike, compared = near._alike, []
    monkeypatch.setattr(near, "_alike", lambda *given: compared.append(1) or alike(*given))
    assert set(near.clusters([f"{kinds[n % 3]} {n}" for n in range(450)])) == {0, 1, 2}
    assert len(compared) <= 2 * 450  # of 33,525 pairs


def test_the_memory_needed_does_not_grow_with_what_the_texts_hold() -> None:
    """It is some bytes for each, and what is compared at a time (T26)."""
    random.seed(10)
    words = ["".join(random.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    texts = [" ".join(random.choices(words, k=140)) for _ in range(250)]
    texts += [f"{text} too" for text in texts[:50]]
    assert len(set(near.clusters(texts[:30]))) == 30  # imports are not counted
    tracemalloc.start()
    try:
        found = near.clusters(texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(set(found)) == 250
    held = sum(map(sys.getsizeof, near.letters(texts[0]))) * len(texts)
    assert peak < 9_000_000 < held


def test_case_punctuation_and_spacing_do_not_count_but_signs_do() -> None:
    assert near.clusters(["Where is my card?", "where  is MY card", "Where is my card…"]) == (0, 0, 0)
    assert near.plain("3+4") != near.plain("3-4") != near.plain("3*4")


def test_texts_of_nothing_but_punctuation_are_told_apart() -> None:
    assert near.clusters(["?", "!", "?", ""]) == (0, 1, 0, 3)


def test_a_shared_template_does_not_glue_different_questions() -> None:
    random.seed(4)
    template = (
        "Classify the following customer message into one of the categories refund, delivery or account.\n\nMessage: "
    )
    texts = [template + " ".join(random.choices(WORDS, k=6)) for _ in range(100)]
    assert max(Counter(near.clusters(texts)).values()) <= 2


def test_the_order_of_texts_changes_names_only() -> None:
    random.seed(5)
    texts = [" ".join(random.choices(WORDS[:6], k=5)) for _ in range(80)]
    order = random.sample(range(80), 80)
    straight = near.clusters(texts)
    shuffled = near.clusters([texts[index] for index in order])
    pairs = {(order[a], order[b]) for a in range(80) for b in range(80) if shuffled[a] == shuffled[b]}
    assert pairs == {(a, b) for a in range(80) for b in range(80) if straight[a] == straight[b]}


def test_real_questions_form_no_giant_cluster(shared: Path) -> None:
    for name in ("banking77/train.csv", "bitext-customer-support/support.csv"):
        examples = read(shared / "data" / name).examples
        sizes = Counter(near.clusters([near.asked(example) for example in examples]))
        assert 0.9 * len(examples) < len(sizes) < 0.97 * len(examples)
        assert max(sizes.values()) <= 10


def test_documents_are_compared_by_runs_of_words_since_all_hold_the_same_letters() -> None:
    random.seed(6)
    texts = [" ".join(random.choices(WORDS, k=900)) for _ in range(3)]
    assert near.clusters(texts) == (0, 0, 0)
    texts.append(texts[1].replace("kettle boots", "Kettle, tall boots"))
    assert near.clusters(texts, shingles=near.words) == (0, 1, 2, 1)
    assert near.words("one two") == {"one two"} and len(near.words("x y " * 5000)) == 2
