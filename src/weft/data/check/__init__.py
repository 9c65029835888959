"""What is wrong with a data set, what it costs, and the cure: one rule per function, in the order of RULES.

`check` changes nothing; `data.mend` writes a better file. A rule looks at all examples and says each thing once, with
exact counts and the first line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from weft.data.check.amount import rare_labels, single_label, too_few, too_long
from weft.data.check.context import CheckContext, TokenCount
from weft.data.check.forms import broken_json, json_keys, label_spellings, mixed_forms
from weft.data.check.overlap import held_out_too, overlap
from weft.data.check.place import no_place
from weft.data.check.repeats import conflicting_answers, exact_duplicates, identical_answers, near_duplicates
from weft.data.check.texts import control_tokens, empty_answers, empty_questions, outer_whitespace, placeholder_answers
from weft.records import Conversation, Dataset, Finding

Rule = Callable[[Sequence[Conversation], CheckContext], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    too_few,
    empty_answers,
    empty_questions,
    placeholder_answers,
    identical_answers,
    conflicting_answers,
    exact_duplicates,
    near_duplicates,
    mixed_forms,
    broken_json,
    json_keys,
    label_spellings,
    single_label,
    rare_labels,
    no_place,
    too_long,
    outer_whitespace,
    control_tokens,
)

_OF_LEARNING: tuple[Rule, ...] = (too_few, rare_labels)
"""Rules that ask for enough to learn from."""

__all__ = ["RULES", "CheckContext", "check", "held_out_too", "overlap"]


def check(
    dataset: Dataset,
    *,
    count_tokens: TokenCount | None = None,
    context_tokens: int | None = None,
    held_out: bool = False,
) -> tuple[Finding, ...]:
    """What the reader found, then what each rule finds.

    With `count_tokens` (tokens of one conversation as the model will see it), examples that the base's template has no
    place for are found too; with `context_tokens` (the most that fit) also those that are too long. Rows that are
    `held_out` to validate on may be few, unless there are none.
    """
    context = CheckContext(dataset.examples, count_tokens, context_tokens)
    rules = [rule for rule in RULES if not (held_out and dataset.examples and rule in _OF_LEARNING)]
    return (*dataset.findings, *(finding for rule in rules for finding in rule(dataset.examples, context)))
