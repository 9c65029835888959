"""Text that comes in pieces against the text of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.generate.text import Text
from weft.models.load import load_tokenizer
from weft.testing import byte_tokenizer

TOKENIZER: Any = byte_tokenizer()


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def bytes_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def told(text: Text, ids: list[int], pieces: int = 1) -> list[str]:
    return [text.push(ids[at : at + pieces])[0] for at in range(0, len(ids), pieces)]


def test_only_whole_characters_are_told() -> None:
    pieces = told(Text(decode), bytes_of("a€🙂b"))
    assert pieces == ["a", "", "", "€", "", "", "", "🙂", "b"]


def test_an_unfinished_character_is_told_at_the_end_as_unknown() -> None:
    text = Text(decode)
    assert told(text, bytes_of("x🙂")[:-1]) == ["x", "", "", ""]
    assert text.rest() == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_across_token_borders_is_seen_and_never_told() -> None:
    text = Text(decode, ("STOP",))
    assert told(text, bytes_of("go onSTSTOP and on")) == [*"go on", "", "", "ST", "", "", *([""] * 8)]
    assert text.stopped and text.rest() == ""
    assert text.push(bytes_of("x")) == ("", True)


def test_a_stop_string_that_did_not_come_is_told_at_the_end() -> None:
    text = Text(decode, ("END",))
    assert "".join(told(text, bytes_of("the EN"))) == "the "
    assert not text.stopped and text.rest() == "EN"


def test_the_first_stop_string_in_the_text_counts() -> None:
    text = Text(decode, ("b", "aab"))
    assert text.push(bytes_of("xaab")) == ("x", True)


def test_a_stop_string_is_found_when_the_last_bytes_settle() -> None:
    text = Text(decode, ("\N{REPLACEMENT CHARACTER}",))
    text.push(bytes_of("a€")[:-1])
    assert text.rest() == "" and text.stopped


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=90), st.integers(1, 7))
def test_pieces_add_up_to_the_text_of_the_whole(ids: list[int], pieces: int) -> None:
    text = Text(decode)
    assert "".join(told(text, ids, pieces)) + text.rest() == decode(ids)


@settings(max_examples=150, deadline=None)
@given(st.text("abé", max_size=60), st.lists(st.text("abé", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_what_is_told_ends_where_the_first_stop_string_begins(whole: str, stops: list[str], pieces: int) -> None:
    text = Text(decode, stops)
    said = "".join(told(text, bytes_of(whole), pieces)) + text.rest()
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    assert text.stopped == bool(ends)
    # A shorter stop string may end before a longer one that began earlier is whole.
    assert whole.startswith(said) and len(said) >= (min(ends) if ends else len(whole))
    assert not any(stop in said for stop in stops)


def test_a_sentencepiece_vocabulary_keeps_its_spaces(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data/models/tinystories-260k/hf")
    whole = "Once upon a time there was a little girl named Lily. She loved to play outside in the park every day."
    ids = tokenizer.encode(whole, add_special_tokens=False)
    text = Text(tokenizer.decode)
    assert "".join(told(text, ids)) + text.rest() == tokenizer.decode(ids)
