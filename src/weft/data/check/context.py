"""What several rules need to know about the examples, worked out once; and how rules speak of rows."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from weft.data import near
from weft.errors import ModelError, UsageError
from weft.records import Conversation

TokenCount = Callable[[Conversation], int]
"""Tokens of an example as a base is shown it. Raises ModelError where its chat template has no place for it."""

_SHOWN = 3
_JOINT = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])|\s+")
_STAND_INS = {"null", "none", "nan", "n/a", "na", "undefined", "nil", "todo", "tbd", "-", "?", "...", "[]", "{}", '""'}
LABEL_CHARACTERS = 60
_EXAMPLES_PER_LABEL = 5


class CheckContext:
    """The examples seen as a whole. Every property is computed at most once."""

    def __init__(
        self,
        examples: Sequence[Conversation],
        count_tokens: TokenCount | None = None,
        context_tokens: int | None = None,
    ) -> None:
        self.examples = examples
        self.count_tokens = count_tokens
        self.context_tokens = context_tokens

    @cached_property
    def objects(self) -> tuple[Any, ...]:
        """For each example the JSON object or list that its answer is, else None."""
        return tuple(_structure(example.answer) for example in self.examples)

    @cached_property
    def mostly_json(self) -> bool:
        return 2 * sum(value is not None for value in self.objects) > len(self.examples)

    @cached_property
    def spellings(self) -> dict[str, dict[str, list[Conversation]]]:
        """Answers by what they say, then by how they are spelled; see `spelling`."""
        groups: dict[str, dict[str, list[Conversation]]] = defaultdict(lambda: defaultdict(list))
        for example in self.examples:
            answer = example.answer.strip()
            if answer:
                groups[spelling(answer)][answer].append(example)
        return groups

    @cached_property
    def answers_are_labels(self) -> bool:
        """Whether the answers come from a short list: few, brief, without line breaks, each given several times."""
        brief = all(
            len(answer) <= LABEL_CHARACTERS and "\n" not in answer for own in self.spellings.values() for answer in own
        )
        return brief and few(len(self.spellings), len(self.examples)) and not self.mostly_json

    @cached_property
    def sizes(self) -> tuple[int | str, ...]:
        """For each example its tokens, or why the base's chat template has no place for it. Empty without a base."""
        return tuple(map(self._size, self.examples)) if self.count_tokens is not None else ()

    def _size(self, example: Conversation) -> int | str:
        assert self.count_tokens is not None
        try:
            return self.count_tokens(example)
        except (ModelError, UsageError) as error:
            return str(error)

    @cached_property
    def clusters(self) -> tuple[int, ...]:
        """For each example the first example of its cluster of near-duplicate questions."""
        return near.clusters([near.asked(example) for example in self.examples])


def spelling(text: str) -> str:
    """Equal for texts that differ only in case, spaces, a joining `_` or `-`, or the last point; `C#` is not `C`."""
    plain = text.casefold().strip().rstrip(".,;:!?")
    return _JOINT.sub(" ", plain) or text.strip()


def few(kinds: int, number: int) -> bool:
    """Whether so many different answers among `number` are a short list: two, or each given several times."""
    return 2 <= kinds <= max(2, number // _EXAMPLES_PER_LABEL)


def stands_for_nothing(answer: str) -> bool:
    """Whether the answer is a stand-in such as `N/A` or `null`."""
    return answer.strip().casefold() in _STAND_INS


def lines(examples: Iterable[Conversation]) -> str:
    """`line 4`, or `lines 4, 18, 77 and 35 more`."""
    numbers = sorted(example.line for example in examples)
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = len(numbers) - _SHOWN
    return f"lines {shown} and {more} more" if more > 0 else f"lines {shown}"


def first_line(examples: Iterable[Conversation]) -> int:
    return min(example.line for example in examples)


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 row`, `1,204 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(part: int, whole: int) -> str:
    """A share that is not all and not nothing never reads as 100 % or 0 %."""
    share = 100 * part / whole
    if 0 < part < whole and not 1 <= share <= 99:
        return "less than 1 %" if share < 1 else f"{min(share, 99.9):.1f} %"
    return f"{share:.0f} %"


def quoted(text: str, characters: int = 40) -> str:
    """A text from the data, shortened for a message, with line breaks made visible."""
    shown = text if len(text) <= characters else text[: characters - 1] + "…"
    return json.dumps(shown, ensure_ascii=False)


def _structure(answer: str) -> Any:
    text = answer.strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None
