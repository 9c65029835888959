"""Calls of tools out of an answer's text, as it comes: by the form that the base's own template writes them in.

What does not parse, or calls an unknown tool, stays text.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Iterator, Sequence
from typing import Any

from weft.records import Call
from weft.serve.tools import Toolset

_LETTERS = string.ascii_letters + string.digits


class CallReader:
    """Takes an answer's text as it comes; gives back text that is surely text, and calls once they are whole."""

    def __init__(self, tools: Toolset, visible_opening: str) -> None:
        """`visible_opening`: the form's opening as it reads in generated text, where some controls do not show."""
        self._tools = tools
        self._tag = visible_opening.strip().rstrip("[{ \n")
        self._closing = ""
        """What is still to come of the call before."""
        self._held = ""
        self._inside = tools.forced
        """Whether what is held begins a call."""
        self._blank = True
        """Whether nothing but whitespace was told so far."""
        self.calls = 0

    @property
    def enough(self) -> bool:
        """Whether no further call is wanted."""
        return self.calls > 0 and not self._tools.several

    def push(self, text: str) -> Iterator[str | Call]:
        """What these characters settle, in order."""
        self._held += text
        while self._held and not self.enough:
            if self._inside:
                if not {"}", "]"} & set(text) or not (calls := self._parsed()):
                    return
                yield from self._made(calls)
            elif self._after_a_call():
                return
            elif not self._tag and self._blank and self._held.lstrip()[:1] in ("{", "["):
                self._inside = True
            else:
                yield from self._told(self._outside())
                if not self._inside:
                    return

    def rest(self) -> Iterator[str | Call]:
        """What was held back, at the end of the answer."""
        if self._inside and (calls := self._parsed()):
            yield from self._made(calls)
        if not self._held or self.enough or self._after_a_call():
            return
        opened = self._tag if self._inside and not self._tools.forced else ""
        yield from self._told(opened + self._held)

    def _outside(self) -> str:
        """The text before the next opening, as far as it cannot be one; whether it is met shows in `_inside`."""
        before, tag, after = self._held.partition(self._tag) if self._tag else (self._held, "", "")
        if tag:
            self._held, self._inside = after, True
            return before.rstrip()
        most = min(len(self._tag) - 1, len(before))
        keep = next((n for n in range(most, 0, -1) if self._tag.startswith(before[-n:])), 0)
        sure = before[: len(before) - keep]
        if self._tag:  # whitespace before a call is none of the answer's
            sure = sure.rstrip()
        self._held = before[len(sure) :]
        return sure

    def _after_a_call(self) -> bool:
        """Take away the closing of the call before; whether more of it may come."""
        if self._closing:
            self._held = self._held.lstrip()
            if self._closing.startswith(self._held) and self._held != self._closing:
                return True
            self._held, self._closing = self._held.removeprefix(self._closing), ""
        return not self._held

    def _told(self, text: str) -> Iterator[str]:
        """Text of the answer; the whitespace between and after calls is none."""
        if text and not (self.calls and not text.strip()):
            self._blank = self._blank and not text.strip()
            yield text

    def _made(self, calls: Sequence[Call]) -> Iterator[Call]:
        for call in calls:
            if not self.enough:
                self.calls += 1
                yield call

    def _parsed(self) -> list[Call]:
        """The calls at the beginning of what is held, taken from it; none while they are not whole."""
        text = self._held.lstrip()
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return []
        calls = [self._call(each) for each in (value if isinstance(value, list) else [value])]
        made = [call for call in calls if call is not None]
        if len(made) < len(calls):
            return []
        if made:
            self._held, self._inside, self._closing = text[end:], False, self._tools.form.closing.strip()
        return made

    def _call(self, value: Any) -> Call | None:
        form = self._tools.form
        if not isinstance(value, dict) or value.get(form.name_key) not in self._tools.names:
            return None
        arguments = value.get(form.arguments_key, {})
        if isinstance(arguments, str):  # some models write the object as text
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return None
        if not isinstance(arguments, dict):
            return None
        return Call(value[form.name_key], json.dumps(arguments, ensure_ascii=False), _new_id())


def _new_id() -> str:
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))
