"""The same thing more than once: answers, examples, questions, and questions with different answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from weft.data import near
from weft.data.check.context import CheckContext, count, first_line, lines, percent, quoted, spelling
from weft.records import Call, Conversation, Finding


def identical_answers(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    answers = {example.answer.strip() for example in examples}
    if len(examples) > 1 and len(answers) == 1 and (answer := answers.pop()):
        yield Finding(
            "identical-answers",
            0,
            "error",
            f"all {len(examples)} answers are identical: {quoted(answer)}",
            "there is nothing to learn: the one answer needs no model",
            "Check that the right column is the answer; add examples with other answers.",
        )


def exact_duplicates(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    seen: set[object] = set()
    repeated = []
    for example in examples:
        if example.identity in seen:
            repeated.append(example)
        seen.add(example.identity)
    if repeated:
        yield Finding(
            "duplicate",
            first_line(repeated),
            "warning",
            f"{count(len(repeated), 'example repeats', 'examples repeat')} an earlier one exactly ({lines(repeated)})",
            "they weigh double in training; in validation and test each counts once",
            "Keep one of each (`weft check --fix` does).",
        )


def near_duplicates(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    later = [
        (example, examples[first].line)
        for index, (example, first) in enumerate(zip(examples, context.clusters, strict=True))
        if first != index and _asks(example) != _asks(examples[first])
    ]
    if later:
        sizes = Counter(first for _, first in later)
        largest = max(Counter(context.clusters).values())
        rows = [example for example, _ in later]
        groups = f"{count(len(sizes), 'group')} of up to {largest}"
        yield Finding(
            "near-duplicate",
            first_line(rows),
            "warning" if 5 * len(rows) > len(examples) else "note",
            f"{count(len(rows), 'question is', 'questions are')} almost the same as an earlier one "
            f"({lines(rows)}; the first is like line {later[0][1]}), in {groups}",
            f"{percent(len(rows), len(examples))} of the rows add little; each group stays in one part of the split",
            "Keep the most different wordings.",
        )


def _asks(example: Conversation) -> str:
    return near.plain(near.asked(example))


def conflicting_answers(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    groups: dict[bytes, list[Conversation]] = defaultdict(list)
    for example in examples:
        groups[_digest(example)].append(example)
    rows: list[Conversation] = []
    lost = 0
    for own in groups.values():
        # Spellings of one answer are another rule's business.
        answers = Counter(spelling(example.answer) for example in own)
        if len(answers) > 1:
            rows += own
            lost += len(own) - max(answers.values())
    if not rows:
        return
    decided = context.answers_are_labels or context.mostly_json
    best = percent(len(examples) - lost, len(examples))
    yield Finding(
        "conflict",
        first_line(rows),
        "warning" if decided else "note",
        f"{len(rows)} rows answer the same question differently ({lines(rows)})",
        f"at best {best} of the answers can be learned" if decided else f"word for word, at best {best} can be learned",
        "Decide on one answer for each question." if decided else "None is needed if several answers are welcome.",
    )


def _digest(example: Conversation) -> bytes:
    """Stands for the prompt whatever its spelling; a second copy of all texts would double the memory."""
    said = [(message.role, spelling(message.content), *map(Call.to_json, message.calls)) for message in example.prompt]
    return hashlib.blake2b(json.dumps([said, example.tools]).encode(), digest_size=16).digest()
