"""Whether a base can be shown the examples at all: its chat template may know no tools, or no system message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from weft.data.check.context import CheckContext, count, first_line, lines
from weft.records import Conversation, Finding

NO_PLACE = "template"
"""The rule's name: what breaks it cannot be left out in silence, so nothing is trained."""


def no_place(examples: Sequence[Conversation], context: CheckContext) -> Iterator[Finding]:
    refused: dict[str, list[Conversation]] = defaultdict(list)
    for example, size in zip(examples, context.sizes, strict=False):
        if isinstance(size, str):
            refused[size].append(example)
    for reason, rows in refused.items():
        yield Finding(
            NO_PLACE,
            first_line(rows),
            "error",
            f"{count(len(rows), 'example has', 'examples have')} no place in the base's chat template ({lines(rows)}): "
            f"{reason.rstrip('.')}",
            "the base can neither learn nor answer them, and is not trained",
            "Use another base, or leave these rows out.",
        )
