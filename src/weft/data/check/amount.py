"""Whether there is enough: rows in all, rows of each label, room in the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weft.data.check.context import CheckContext, count, first_line, lines, percent, quoted
from weft.records import Conversation, Finding

LEAST = 10
"""Fewer are refused, as by the fine-tuning API (`invalid_n_examples`)."""
ADVISED = 50
DOMINANT_SHARE = 0.9
LEAST_PER_LABEL = 5


def too_few(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    number = len(examples)
    if number < ADVISED:
        short = number < LEAST
        yield Finding(
            "too-few",
            0,
            "error" if short else "warning",
            f"{count(number, 'usable example')}; "
            + (f"at least {LEAST} are needed" if short else f"{ADVISED} to 100 are a working floor"),
            "nothing can be learned and measured on so few"
            if short
            else "the measured differences will have wide intervals",
            f"Add at least {(LEAST if short else ADVISED) - number} more.",
        )


def single_label(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    if not context.answers_are_labels:
        return
    spelled = max(context.spellings.values(), key=lambda own: sum(map(len, own.values())))
    number = sum(map(len, spelled.values()))
    label = max(spelled, key=lambda way: len(spelled[way]))
    if number > DOMINANT_SHARE * len(examples):
        yield Finding(
            "dominant-label",
            0,
            "warning",
            f"{percent(number, len(examples))} of the answers are {quoted(label)}",
            f"always answering so is right {percent(number, len(examples))} of the time; accuracy will say little",
            "Add examples of the other answers, and look at macro-F1 instead of accuracy.",
        )


def rare_labels(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    if not context.answers_are_labels:
        return
    rare = {
        max(own, key=lambda way: len(own[way])): rows
        for own in context.spellings.values()
        if len(rows := [row for way in own.values() for row in way]) < LEAST_PER_LABEL
    }
    if rare:
        named = ", ".join(f"{quoted(label)} ({len(rows)})" for label, rows in sorted(rare.items())[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        rows = [row for own in rare.values() for row in own]
        yield Finding(
            "rare-labels",
            first_line(rows),
            "warning",
            f"{count(len(rare), 'label has', 'labels have')} fewer than {LEAST_PER_LABEL} examples: {named}{more}",
            "they can hardly be learned, and may be missing from the test part",
            f"Add examples up to at least {LEAST_PER_LABEL} each, or join them to another label.",
        )


def too_long(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    if context.context_tokens is None:
        return
    sizes = [(size, example) for size, example in zip(context.sizes, examples, strict=False) if isinstance(size, int)]
    long = [example for size, example in sizes if size > context.context_tokens]
    if long:
        longest = max(size for size, _ in sizes)
        yield Finding(
            "too-long",
            first_line(long),
            "error" if 2 * len(long) > len(examples) else "warning",
            f"{count(len(long), 'example')} longer than the context of {context.context_tokens:,} tokens "
            f"({lines(long)}); the longest has {longest:,}",
            f"{percent(len(long), len(examples))} of the examples cannot be learned; they are left out, never cut",
            "Shorten them, or use a base with a longer context.",
        )
