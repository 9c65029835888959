"""Whether the answers agree in form: JSON, fixed lines, labels or prose; the same keys, one spelling for one label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from weft.data.check.answer_forms import forms_of, meant_as_json
from weft.data.check.context import CheckContext, count, first_line, lines, percent, quoted
from weft.records import Conversation, Finding


def mixed_forms(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    forms = forms_of(examples, context)
    if len(forms) < 2:
        return
    usual = max(forms, key=lambda form: len(form.rows))  # the strictest of equals
    others = [form for form in forms if form is not usual]
    fewer = [row for form in others for row in form.rows]
    first, *further = [(percent(len(form.rows), len(examples)), form.description) for form in forms]
    shares = [f"{first[0]} of the answers are {first[1]}", *(f"{share} are {what}" for share, what in further)]
    verb = "is" if len(fewer) == 1 else "are"
    kind = "not JSON" if usual.noun == "JSON" else others[0].noun if len(others) == 1 else "of the rarer forms"
    yield Finding(
        "mixed-forms",
        first_line(fewer),
        "warning",
        f"{', '.join(shares[:-1])} and {shares[-1]}; {lines(fewer)} {verb} {kind}",
        "the model will answer now in one form, now in the other",
        f"Write {'these answers' if len(fewer) > 1 else 'this answer'} in the form of the others.",
    )


def broken_json(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    if not any(value is not None for value in context.objects):
        return
    broken = [
        example
        for example, value in zip(examples, context.objects, strict=True)
        if value is None and meant_as_json(example)
    ]
    if broken:
        yield Finding(
            "broken-json",
            first_line(broken),
            "error" if 2 * len(broken) > len(examples) else "warning",
            f"{count(len(broken), 'answer begins', 'answers begin')} like JSON but cannot be parsed ({lines(broken)})",
            "the model learns to write what programs cannot read",
            "Write the answers with a JSON library.",
        )


def json_keys(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    keyed = [
        (example, tuple(value))
        for example, value in zip(examples, context.objects, strict=True)
        if isinstance(value, dict)
    ]
    if len(keyed) < 2:
        return
    usual = set(Counter(frozenset(keys) for _, keys in keyed).most_common(1)[0][0])
    differing = [(example, set(keys)) for example, keys in keyed if set(keys) != usual]
    if differing:
        lacking = Counter(key for _, keys in differing for key in usual - keys)
        added = Counter(key for _, keys in differing for key in keys - usual)
        rows = [example for example, _ in differing]
        parts = [f"without {quoted(key)} {number}x" for key, number in lacking.most_common(3)]
        parts += [f"with {quoted(key)} {number}x" for key, number in added.most_common(3)]
        yield Finding(
            "json-keys",
            first_line(rows),
            "warning",
            f"{count(len(differing), 'answer has', 'answers have')} other keys than the usual "
            f"{_listed(sorted(usual))}: {', '.join(parts)} ({lines(rows)})",
            f"the form of {percent(len(differing), len(keyed))} of the JSON answers cannot be predicted",
            "Give every answer the same keys; write null where there is no value.",
        )
    orders = Counter(keys for _, keys in keyed if set(keys) == usual)
    if len(orders) > 1:
        first = orders.most_common(1)[0][0]
        shuffled = [example for example, keys in keyed if set(keys) == usual and keys != first]
        yield Finding(
            "json-key-order",
            first_line(shuffled),
            "note",
            f"{count(len(shuffled), 'answer has', 'answers have')} the keys in another order ({lines(shuffled)})",
            "the order is learned too: answers that mean the same will differ as text",
            f"Write the keys in one order, such as {_listed(first)}.",
        )


def label_spellings(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    if not context.answers_are_labels:
        return
    groups = [own for own in context.spellings.values() if len(own) > 1]
    rarer = [
        row for own in groups for way in sorted(own, key=lambda way: (-len(own[way]), way))[1:] for row in own[way]
    ]
    if rarer:
        example = max(groups, key=lambda own: sum(map(len, own.values())))
        ways = sorted(example, key=lambda way: (-len(example[way]), way))
        named = " and ".join(f"{quoted(way)} ({len(example[way])})" for way in ways[:3])
        yield Finding(
            "label-spelling",
            first_line(rarer),
            "warning",
            f"{count(len(groups), 'label is', 'labels are')} spelled in several ways, such as {named} ({lines(rarer)})",
            f"{count(len(rarer), 'answer counts', 'answers count')} as wrong although the meaning is right",
            "Choose one spelling (`weft check --fix` does where one has at least 90 %).",
        )


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return ", ".join(quoted(key) for key in keys[:8]) + more or "(none)"
