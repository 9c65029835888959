"""What a set of examples is, as one SHA-256: of their messages alone, not of the file that they came in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from weft.records import Conversation


def canonical(example: Conversation) -> bytes:
    """The messages as compact JSON in UTF-8, with their weights where there are any; the line number does not count.

    Where tools are in play, the whole row as a file has it.
    """
    turns = [
        [message.role, message.content] + ([] if message.weight is None else [message.weight])
        for message in example.messages
    ]
    told = example.to_json() if example.tools else turns
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def content_hash(example: Conversation) -> str:
    """SHA-256 of one example, in hexadecimal. Equal exactly for equal messages."""
    return hashlib.sha256(canonical(example)).hexdigest()


def ordered(examples: Iterable[Conversation]) -> str:
    """SHA-256 of the examples in their order: what training sees."""
    return _combined(content_hash(example) for example in examples)


def unordered(examples: Iterable[Conversation]) -> str:
    """SHA-256 of the examples in any order, repetitions counted: whether two files hold the same set."""
    return _combined(sorted(content_hash(example) for example in examples))


def _combined(hashes: Iterable[str]) -> str:
    total = hashlib.sha256()
    for one in hashes:
        total.update(bytes.fromhex(one))
    return total.hexdigest()
