"""The dictionary that weft-nano reads: WordNet's files as they are laid out, and tasks whose answers are true by it."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # recipes are no part of the package
    sys.path.insert(0, str(ROOT))

from recipes.nano import meanings, messages, tasks, text, word_tasks  # noqa: E402

INSTALLED = Path("/usr/share/wordnet")
NOUNS = """\
  1 a licence, as the files begin
00000100 21 n 01 money 0 001 ~ 00000200 n 0000 | what is paid with; "money is short"
00000200 21 n 02 deposit 0 down_payment 0 001 @ 00000100 n 0000 | a part; paid first; "she left a deposit"
00000300 05 n 01 poodle 0 002 @ 00000200 n 0000 + 0000090 v 01 | a dog; "the poodle barks"
00000400 15 n 01 Riga 0 001 @ 00000200 n 0000 | a town; "Riga is near"
00000500 18 n 01 lout 0 001 @ 00000200 n 0000 | (slang) somebody rude; "what a lout"
00000600 21 n 01 agio 0 001 @ 00000100 n 0000 | a fee that nobody met
00000700 21 n 01 fee 0 001 @ 00000100 n 0000 | a fixed charge
"""
INDEX = """\
  1 a licence
agio n 1 1 @ 1 0 00000600
fee n 2 2 @ ~ 2 1 00000700 00000600
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for part in meanings.PARTS:
        (tmp_path / f"data.{part}").write_text(NOUNS if part == "noun" else "", "utf-8")
        (tmp_path / f"index.{part}").write_text(INDEX if part == "noun" else "", "utf-8")
    return tmp_path


def test_an_entry_holds_its_words_its_kinds_and_its_uses(files):
    money, deposit, fee = meanings.read(files)
    assert deposit == meanings.Meaning(
        ("deposit", "down payment"), ("money",), 21, "a part; paid first", ("she left a deposit",)
    )
    assert meanings.entry(deposit) == "deposit, down payment (a kind of money): a part; paid first. She left a deposit."
    assert (money.kinds, fee.words, fee.used) == ((), ("fee",), ())


def test_animals_names_insults_and_words_that_nobody_met_are_left_out(files):
    assert {word for meaning in meanings.read(files) for word in meaning.words} == {
        "money", "deposit", "down payment", "fee",
    }  # fmt: skip


def test_a_missing_file_is_named(files):
    (files / "index.adv").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.adv"):
        meanings.read(files)


def test_pages_keep_to_a_field_and_hold_forty_entries():
    made = [meanings.Meaning((f"word{i}",), (), i % 2, f"number {i}", ()) for i in range(100)]
    laid_out = meanings.pages(made)
    assert [page.count("\n") + 1 for page in laid_out] == [40, 10, 40, 10]
    assert all(len({int(line.split(":")[0][4:]) % 2 for line in page.split("\n")}) == 1 for page in laid_out)


def _fruits_and_tools() -> tasks.Source:
    named = {"fruit": ("apple", "pear", "fig", "plum", "date", "lime", "kiwi", "mango")}
    named["tool"] = ("saw", "hammer", "file", "plane", "drill", "awl", "rasp", "vice")
    made = [
        meanings.Meaning((word, f"{word[::-1]}s"), (kind,), field, f"the {kind} {word}", (f"bring the {word}",))
        for field, (kind, words) in enumerate(named.items())
        for word in words
    ]
    return tasks.Source(messages.TRAIN, {}, meanings=made)


def test_words_are_labelled_by_what_they_are_a_kind_of():
    source, seen = _fruits_and_tools(), 0
    for i in range(40):
        for (role, asked), (_, reply) in pairwise(word_tasks.kinds(Random(i), 300, source)):
            if role == "user":
                assert any(word in asked for word in source.groups[reply.lower()])
                seen += 1
    assert seen > 100


def test_the_right_choice_is_among_the_choices_and_true():
    source = _fruits_and_tools()
    by_word = {word: meaning for meaning in source.meanings for word in meaning.words}
    by_text = {meaning.text: meaning for meaning in source.meanings}
    for i in range(200):
        for (role, asked), (_, reply) in pairwise(word_tasks.closest(Random(i), 200, source)):
            if role == "user":
                given = asked.split('"')[1]
                meant = by_text.get(given) or by_word[given]
                assert reply in asked and reply in (*meant.words, meant.text)


def test_a_definition_is_the_words_own():
    source = _fruits_and_tools()
    for i in range(100):
        for (role, asked), (_, reply) in pairwise(word_tasks.define(Random(i), 100, source)):
            if role == "user":
                meant = [x for x in source.meanings if any(word in asked for word in x.words)]
                answers = {meanings.sentence(s) for x in meant for s in (x.text, *x.used)}
                answers |= {f"A kind of {x.kinds[0]}." for x in meant}
                assert reply in answers


def test_an_entry_that_touches_forbidden_text_is_left_out(files):
    said = "deposit, down payment (a kind of money): a part; paid first"
    kept = meanings.read(files, text.grams(said))
    assert [meaning.words[0] for meaning in kept] == ["money", "fee"]


def test_wordnet_shares_no_run_of_eight_words_with_test_or_example_data(shared):
    if not INSTALLED.is_dir():
        pytest.skip("WordNet 3.0 is not installed here (Debian's wordnet-base)")
    banned = text.forbidden_grams(shared / "data", ROOT / "examples")
    whole = meanings.read(INSTALLED, banned)
    assert len(whole) > 40_000
    assert [page for page in meanings.pages(whole) if not banned.isdisjoint(text.grams(page))] == []
