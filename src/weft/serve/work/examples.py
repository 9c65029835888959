"""A job's files → what is learned and what is validated on: conversations, or pairs of replies.

Without a validation file some rows are held out by weft's own split, near-duplicates together, where the best step is
to be chosen by them; else every row is learned. Nothing is sealed for a test: that is for `weft eval`, not for a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from weft.data.read import read
from weft.data.read_preferences import read_preferences
from weft.data.split import split
from weft.graders.shape import are_labels
from weft.records import Conversation, Message, Preference
from weft.train.too_long import in_words

E = TypeVar("E", Conversation, Preference)


@dataclass(frozen=True)
class Examples(Generic[E]):
    """What a job works on; `note` is what its owner should know about it, `sha256` are those of the files."""

    train: tuple[E, ...]
    validation: tuple[E, ...]
    sha256: tuple[str, ...]
    note: str = ""


def examples_of(method: str, training: Path, validation: Path | None, *, choose: bool) -> Examples[Any]:
    """The rows of the files; without a `validation` file some of `training`'s are held out to `choose` the best by.

    Raises DataError where a file has none that can be used.
    """
    read_all = _pairs if method == "dpo" else _conversations
    return read_all(training, validation, choose)


def _conversations(training: Path, validation: Path | None, choose: bool) -> Examples[Conversation]:
    given = read(training)
    if validation is not None:
        held_out = read(validation)
        return Examples(given.examples, held_out.examples, (given.sha256, held_out.sha256))
    if not choose:
        return Examples(given.examples, (), (given.sha256,))
    answers = [example.answer for example in given.examples]
    return _held_out(given.examples, given.examples, given.sha256, answers if are_labels(answers) else None)


def _pairs(training: Path, validation: Path | None, choose: bool) -> Examples[Preference]:
    given = read_preferences(training)
    if validation is not None:
        held_out = read_preferences(validation)
        return Examples(given.pairs, held_out.pairs, (given.sha256, held_out.sha256))
    if not choose:
        return Examples(given.pairs, (), (given.sha256,))
    # To `split`, a pair is a conversation that goes on with both replies: equal ones are equal pairs.
    as_one = [Conversation((*p.answered(p.chosen), Message("assistant", p.rejected)), p.line) for p in given.pairs]
    return _held_out(given.pairs, as_one, given.sha256, None)


def _held_out(
    rows: Sequence[E], seen_as: Sequence[Conversation], sha256: str, labels: Sequence[str] | None
) -> Examples[E]:
    """`rows` without those that `split` takes for validation, in the order of the file."""
    numbered = [replace(example, line=number) for number, example in enumerate(seen_as)]
    parts = split(numbered, labels=labels)
    taken = {example.line for example in parts.validation}
    if not taken:
        note = (
            f"The {len(rows)} examples are all alike, so none was held out: validation looks at the training examples. "
            "Give a validation file, or examples that differ."
        )
        return Examples(tuple(rows), tuple(rows), (sha256,), note)
    left = {example.line for example in (*parts.train, *parts.test)}
    held_out = tuple(row for number, row in enumerate(rows) if number in taken)
    return Examples(
        tuple(row for number, row in enumerate(rows) if number in left),
        held_out,
        (sha256,),
        f"{len(held_out)} of the {len(rows)} examples were held out to decide how long to train and are not learned "
        f"({in_words([row.line for row in held_out])}). Name a validation_file or a number of epochs (n_epochs) to "
        "learn from every row.",
    )
