"""Which form each answer has: JSON, fixed lines, one of a few labels, or prose.

The forms are found among the answers themselves, and carefully: people's free texts now and then hold a list in JSON,
look like lines or repeat a short reply. So JSON beside prose, lines and labels are forms of their own from a tenth of
the answers on: lines with the same keys; labels that are brief, end in no full stop and come from a short list, where
nearly all other answers are sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from weft.data.check.context import LABEL_CHARACTERS, CheckContext, few, quoted, spelling, stands_for_nothing
from weft.data.key_lines import common_keys, parse_lines
from weft.records import Conversation

_LEAST_SHARE = 0.1
"""Of all answers: what is rarer is part of prose."""
_LEAST_LINES, _LEAST_LABELLED = 3, 10
_MOST_BETWEEN = 0.1
"""Of all answers: where more are neither label nor sentence, answers simply differ in length."""
_SENTENCE_WORDS = 5
_SENTENCE_ENDS = (".", "!", "?", "…", "\u3002", "\uff01", "\uff1f")


@dataclass(frozen=True, slots=True)
class Form:
    """The rows whose answers have one form, and how it is spoken of."""

    noun: str
    """`JSON`, `such lines`, `labels` or `prose`: what such a row's answer is."""
    description: str
    rows: list[Conversation]


def forms_of(examples: Sequence[Conversation], context: CheckContext) -> list[Form]:
    """The forms that occur, the strictest first. Empty answers and broken JSON have none: other rules name them.

    Nor has an answer that calls tools, which is no text.
    """
    as_json: list[Conversation] = []
    rest: list[Conversation] = []
    for example, value in zip(examples, context.objects, strict=True):
        if example.messages[-1].calls:
            continue
        if value is not None:
            as_json.append(example)
        elif example.answer.strip() and not meant_as_json(example):
            rest.append(example)
    forms = [Form("JSON", "JSON", as_json)]
    if not context.answers_are_labels:  # a label such as `Billing: refund` is no line
        least = _LEAST_SHARE * len(examples)
        as_lines, rest = _lines(rest, least)
        labels, rest = _labels(rest, least, _MOST_BETWEEN * len(examples))
        forms += [as_lines, labels]
    forms.append(Form("prose", "prose", rest))
    forms = [form for form in forms if form.rows]
    if [form.noun for form in forms] == ["JSON", "prose"] and len(as_json) < _LEAST_SHARE * len(examples):
        return [Form("prose", "prose", [*as_json, *rest])]
    return forms


def meant_as_json(example: Conversation) -> bool:
    """Whether the answer begins as JSON does, well-formed or not."""
    text = example.answer.strip()
    return text.startswith(("{", "[")) and not text.startswith("{{")


def _lines(rows: list[Conversation], least: float) -> tuple[Form, list[Conversation]]:
    """The rows that answer in the commonest lines, if they are many enough, and those that do not begin any such line.

    Lines that lack a key, or whose last value goes on over several lines, are of neither kind.
    """
    keys, number = common_keys(row.answer for row in rows)
    if number < max(_LEAST_LINES, least):
        return Form("", "", []), rows
    beginnings = tuple(f"{key}:" for key in keys)
    alike: list[Conversation] = []
    others: list[Conversation] = []
    for row in rows:
        found = parse_lines(row.answer)
        if found is not None and tuple(found) == keys:
            alike.append(row)
        elif not any(line.startswith(beginnings) for line in row.answer.strip().split("\n")):
            others.append(row)
    return Form("such lines", f"lines such as {quoted(f'{keys[0]}: …')}", alike), others


def _labels(rows: list[Conversation], least: float, most_between: float) -> tuple[Form, list[Conversation]]:
    """The rows that answer with a label, if these and sentences are nearly all there is, and the other rows."""
    brief = [row for row in rows if _is_brief(row.answer.strip())]
    labels = Counter(spelling(row.answer) for row in brief)
    longest = max(map(len, labels), default=0)
    chosen = {id(row) for row in brief}
    others = [row for row in rows if id(row) not in chosen]
    sentences = sum(_is_sentence(row.answer.strip(), longest) for row in others)
    closed = len(brief) >= max(_LEAST_LABELLED, least) and few(len(labels), len(brief))
    if not closed or len(others) - sentences > most_between or (others and not sentences):
        return Form("", "", []), rows
    named = " and ".join(quoted(label) for label, _ in Counter(row.answer.strip() for row in brief).most_common(2))
    return Form("labels", f"labels such as {named}", brief), others


def _is_brief(text: str) -> bool:
    return (
        len(text) <= LABEL_CHARACTERS
        and "\n" not in text
        and not text.endswith(_SENTENCE_ENDS)
        and not stands_for_nothing(text)
    )


def _is_sentence(text: str, longest_label: int) -> bool:
    ended = text.endswith(_SENTENCE_ENDS) and (len(text.split()) >= _SENTENCE_WORDS or len(text) > 2 * longest_label)
    return ended or "\n" in text or len(text) > max(LABEL_CHARACTERS, 2 * longest_label)
