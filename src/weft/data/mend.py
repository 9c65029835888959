"""A better file from a flawed one, by mends that need no judgement; the rest stays as it is for a person to decide."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from weft.data.check.context import CheckContext, count
from weft.errors import UsageError
from weft.records import Conversation, Dataset
from weft.runs import explained

CLEAR_SHARE = 0.9
"""A spelling of a label replaces the others only where it has this share of them."""


@dataclass(frozen=True, slots=True)
class Mended:
    """The examples after mending, and each kind of change in words with its count."""

    examples: tuple[Conversation, ...]
    changes: tuple[str, ...]


def mend(dataset: Dataset) -> Mended:
    """Leaves out unreadable rows, empty ones and repetitions; trims outer whitespace; unifies clear label spellings."""
    changes = []
    bad = dataset.rows - len(dataset.examples)
    if bad:
        changes.append(f"{count(bad, 'row')} left out that could not be read")
    examples = [example for example in dataset.examples if example.answer.strip() and example.question.strip()]
    if empty := len(dataset.examples) - len(examples):
        changes.append(f"{count(empty, 'row')} left out with an empty question or answer")
    trimmed = [_trimmed(example) for example in examples]
    if number := sum(new.messages != old.messages for new, old in zip(trimmed, examples, strict=True)):
        changes.append(f"{count(number, 'row')} trimmed of outer whitespace")
    unified = _unified(trimmed)
    if number := sum(new.answer != old.answer for new, old in zip(unified, trimmed, strict=True)):
        changes.append(f"{count(number, 'label')} given the usual spelling")
    distinct = tuple({example.identity: example for example in reversed(unified)}.values())[::-1]
    if number := len(unified) - len(distinct):
        changes.append(f"{count(number, 'row')} left out that repeated another")
    return Mended(distinct, tuple(changes))


def write_jsonl(path: Path, examples: Iterable[Conversation]) -> None:
    """Write examples as chat JSONL.

    Raises UsageError when `path` is there already or cannot be opened, ResourceError when the disk is full.
    """
    try:
        file = path.open("x", encoding="utf-8", newline="\n")
    except FileExistsError:
        raise UsageError(f"{path}: is there already and is not overwritten; name another file.") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: the folder {path.parent} is not there; make it first.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another file.") from None
    try:
        with explained(path), file:
            for example in examples:
                file.write(json.dumps(example.to_json(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _trimmed(example: Conversation) -> Conversation:
    messages = tuple(replace(message, content=message.content.strip()) for message in example.messages)
    return replace(example, messages=messages)


def _unified(examples: list[Conversation]) -> list[Conversation]:
    context = CheckContext(examples)
    if not context.answers_are_labels:
        return examples
    usual: dict[str, str] = {}
    for own in context.spellings.values():
        main = max(own, key=lambda way: len(own[way]))
        if len(own[main]) >= CLEAR_SHARE * sum(map(len, own.values())):
            usual.update(dict.fromkeys(own, main))
    return [
        replace(example, messages=(*example.prompt, replace(last, content=usual.get(last.content, last.content))))
        for example in examples
        for last in example.messages[-1:]
    ]
