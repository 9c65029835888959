"""A job's files → what is learned and what is validated on: conversations, or pairs of replies.

Without a validation file a tenth is held out by weft's own split, near-duplicates together. Nothing is sealed for a
test: that is for `weft eval`, not for a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from weft.data.read import read
from weft.data.read_preferences import read_preferences
from weft.data.split import split
from weft.graders.shape import are_labels
from weft.records import Conversation, Message, Preference

E = TypeVar("E", Conversation, Preference)


@dataclass(frozen=True)
class Examples(Generic[E]):
    """What a job works on; `note` is what its owner should know about it, `sha256` are those of the files."""

    train: tuple[E, ...]
    validation: tuple[E, ...]
    sha256: tuple[str, ...]
    note: str = ""


def examples_of(method: str, training: Path, validation: Path | None) -> Examples[Any]:
    """The rows of the files. Raises DataError where a file has none that can be used."""
    return _pairs(training, validation) if method == "dpo" else _conversations(training, validation)


def _conversations(training: Path, validation: Path | None) -> Examples[Conversation]:
    given = read(training)
    if validation is not None:
        held_out = read(validation)
        return Examples(given.examples, held_out.examples, (given.sha256, held_out.sha256))
    answers = [example.answer for example in given.examples]
    return _held_out(given.examples, given.examples, given.sha256, answers if are_labels(answers) else None)


def _pairs(training: Path, validation: Path | None) -> Examples[Preference]:
    given = read_preferences(training)
    if validation is not None:
        held_out = read_preferences(validation)
        return Examples(given.pairs, held_out.pairs, (given.sha256, held_out.sha256))
    # To `split`, a pair is a conversation that goes on with both replies: equal ones are equal pairs.
    as_one = [Conversation((*p.answered(p.chosen), Message("assistant", p.rejected)), p.line) for p in given.pairs]
    return _held_out(given.pairs, as_one, given.sha256, None)


def _held_out(
    rows: Sequence[E], seen_as: Sequence[Conversation], sha256: str, labels: Sequence[str] | None
) -> Examples[E]:
    """`rows` without those that `split` takes for validation, in the order of the file."""
    numbered = [Conversation(example.messages, number) for number, example in enumerate(seen_as)]
    parts = split(numbered, labels=labels)
    taken = {example.line for example in parts.validation}
    if not taken:
        note = (
            f"The {len(rows)} examples are all alike, so none was held out: validation looks at the training examples. "
            "Give a validation file, or examples that differ."
        )
        return Examples(tuple(rows), tuple(rows), (sha256,), note)
    left = {example.line for example in (*parts.train, *parts.test)}
    return Examples(
        tuple(row for number, row in enumerate(rows) if number in left),
        tuple(row for number, row in enumerate(rows) if number in taken),
        (sha256,),
    )
