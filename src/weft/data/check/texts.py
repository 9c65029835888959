"""What is odd inside single texts: nothing there, stand-ins for nothing, outer whitespace, control tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from weft.data.check.context import CheckContext, count, first_line, lines, percent, quoted, stands_for_nothing
from weft.records import Conversation, Finding

_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_ ]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[(?:CLS|SEP|PAD)\]"
)


def empty_answers(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    empty = [example for example in examples if not example.answer.strip()]
    if empty:
        number = "all answers are" if len(empty) == len(examples) else count(len(empty), "answer is", "answers are")
        yield Finding(
            "empty-answer",
            first_line(empty),
            "error",
            f"{number} empty ({lines(empty)})",
            "the model learns to say nothing",
            "Fill the answers in, or remove these rows (`weft check --fix` does).",
        )


def empty_questions(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    empty = [example for example in examples if not example.question.strip()]
    if empty:
        yield Finding(
            "empty-question",
            first_line(empty),
            "error",
            f"{count(len(empty), 'question is', 'questions are')} empty ({lines(empty)})",
            "the model learns to answer without being asked",
            "Fill the questions in, or remove these rows (`weft check --fix` does).",
        )


def placeholder_answers(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    # "none" may well be one of the labels.
    if context.answers_are_labels:
        return
    found = [example for example in examples if stands_for_nothing(example.answer)]
    if found:
        yield Finding(
            "placeholder-answer",
            first_line(found),
            "warning",
            f"{count(len(found), 'answer stands', 'answers stand')} for nothing, "
            f"such as {quoted(found[0].answer.strip())} ({lines(found)})",
            "the model learns to answer so",
            "Write the real answers, or remove these rows.",
        )


def outer_whitespace(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    found = [example for example in examples if example.answer != example.answer.strip() and example.answer.strip()]
    if found:
        yield Finding(
            "outer-whitespace",
            first_line(found),
            "warning",
            f"{count(len(found), 'answer begins or ends', 'answers begin or end')} with whitespace ({lines(found)})",
            f"in {percent(len(found), len(examples))} of the examples the space is learned as part of the answer",
            "Trim them (`weft check --fix` does).",
        )


def control_tokens(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    learned: list[Conversation] = []
    asked: list[Conversation] = []
    tokens: set[str] = set()
    for example in examples:
        found = [set(_CONTROL.findall(message.content)) for message in example.messages]
        tokens.update(*found)
        if found[-1]:
            learned.append(example)
        elif any(found):
            asked.append(example)
    shown = ", ".join(sorted(tokens)[:3])
    if learned:
        yield Finding(
            "control-token",
            first_line(learned),
            "warning",
            f"{count(len(learned), 'answer holds', 'answers hold')} control tokens as text: {shown} ({lines(learned)})",
            "it is learned as plain text and will show up in replies; weft adds the end of a turn itself",
            "Remove it from the answers.",
        )
    if asked:
        yield Finding(
            "control-token",
            first_line(asked),
            "note",
            f"{count(len(asked), 'question holds', 'questions hold')} control tokens as text: {shown} ({lines(asked)})",
            "none: message text is encoded as text and can forge no role",
            "Remove it if it came from an older template.",
        )
