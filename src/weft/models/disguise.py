"""Foreign strings as a chat template may see them: nothing in them can be taken for one of the tokenizer's controls.

Message contents never reach a template. Names, descriptions and schemas of tools do, since templates look into them
and print them each in its own way. So whatever in them reads as a control token, or as the beginning or end of one, is
shown as one letter of a private plane, and put back as plain text once the scaffold is cut at its controls.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from weft.errors import UsageError

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Letters without a meaning (Unicode's supplementary private use area A)."""


class Disguise:
    """The control texts of one tokenizer, and how to hide them in JSON values."""

    def __init__(self, controls: Collection[str]) -> None:
        self._controls = sorted(controls, key=len, reverse=True)

    def hide(self, value: Any) -> tuple[Any, Mapping[str, str]]:
        """A JSON value without a trace of control texts, and what each private letter in it stands for.

        Raises UsageError where the value uses up the letters itself.
        """
        letters: dict[str, str] = {}
        used = {letter for text in _strings(value) for letter in text if ord(letter) >= _PRIVATE.start}
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)

        def stand_in(text: str) -> str:
            if text and text not in letters:
                letter = next(free, None)
                if letter is None:
                    raise UsageError("the tools hold too many different control texts. Name each thing plainly.")
                letters[text] = letter
            return letters.get(text, "")

        def hidden(part: Any) -> Any:
            match part:
                case str():
                    return self._hidden(part, stand_in)
                case dict():
                    return {hidden(key): hidden(item) for key, item in part.items()}
                case list() | tuple():
                    return [hidden(item) for item in part]
            return part

        shown = hidden(value)
        return shown, {letter: text for text, letter in letters.items()}

    def _hidden(self, text: str, stand_in: Any) -> str:
        text = self._whole.sub(lambda match: stand_in(match[0]), text)
        # A control token must not come about where the text meets the template's words.
        head = next((n for n in range(min(len(text), self._longest), 0, -1) if text[:n] in self._ends), 0)
        text = stand_in(text[:head]) + text[head:]
        tail = next((n for n in range(min(len(text), self._longest), 0, -1) if text[-n:] in self._starts), 0)
        return text[: len(text) - tail] + stand_in(text[len(text) - tail :])

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._controls)) or "(?!)")

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._controls), default=0)

    @cached_property
    def _starts(self) -> frozenset[str]:
        return frozenset(text[:n] for text in self._controls for n in range(1, len(text)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(text[n:] for text in self._controls for n in range(1, len(text)))


def pieces(text: str, letters: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """The parts of a rendering in order, each with whether it is foreign text that was hidden."""
    if not letters:
        yield text, False
        return
    for number, part in enumerate(re.split("([" + "".join(letters) + "])", text)):
        if part:
            yield (letters[part], True) if number % 2 else (part, False)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
