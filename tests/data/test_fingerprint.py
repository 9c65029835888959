"""A fingerprint is of the messages: neither line numbers nor the file's layout count."""

from __future__ import annotations

import hashlib

from weft.data.fingerprint import canonical, content_hash, ordered, unordered
from weft.records import Conversation, Message


def example(question: str, answer: str, line: int = 0) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), line)


A, B = example("a", "1"), example("b", "2")


def test_the_hash_of_one_example_is_that_of_its_canonical_bytes() -> None:
    assert canonical(A) == b'[["user","a"],["assistant","1"]]'
    assert content_hash(A) == hashlib.sha256(canonical(A)).hexdigest()


def test_line_numbers_do_not_count_and_texts_do() -> None:
    assert content_hash(A) == content_hash(example("a", "1", line=9)) != content_hash(example("a1", ""))


def test_one_form_knows_the_order_and_the_other_does_not() -> None:
    assert unordered([A, B]) == unordered([B, A])
    assert ordered([A, B]) != ordered([B, A])


def test_repetitions_count() -> None:
    assert unordered([A, B, B]) != unordered([A, A, B])
