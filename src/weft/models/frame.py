"""A chat template's own tokens around the texts of a conversation: made once per sequence of roles, then filled in.

    <start> user ▢ <end> <start> assistant ▢ <end>          ▢: the place of a message's text

A frame ends in the answer's place, and what stands before it is exactly what a server feeds for the same messages: it
is laid out with and without an answer, and a template that renders the two otherwise is refused. Texts never pass
through the template; they are `chat.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from weft.errors import ModelError, UsageError
from weft.models.disguise import pieces
from weft.models.encode import Encoder
from weft.models.template import Layout, Slot, Template, quoted
from weft.records import Message

KEPT = 512
"""Frames kept. A server sees conversations of any shape, and must not remember each for ever."""
Roles = tuple[tuple[str, bool], ...]
"""Of each message its role, and whether a template would take its content for missing."""


@dataclass(frozen=True)
class Place:
    """A message's text: after `lead`, which belongs to its first word; `continued`: text stands before it.

    `tail` belongs to its last word, as a tokenizer sees it: among tools, the line break behind a result.
    """

    slot: Slot
    lead: str
    continued: bool
    tail: str = ""


@dataclass(frozen=True)
class Frame:
    """A conversation of given roles that ends in an answer: what comes before it, and the answer's place."""

    before: tuple[tuple[int, ...] | Place, ...]
    answer: Place
    ends: dict[int, int | None]
    """Per message of the assistant: the control token that the template puts directly after it."""
    opening: str
    """What stands before the answer beyond the generation prompt."""
    calls: tuple[int, ...] = ()
    """Of an answer that calls tools: the template's words for its calls, behind its text."""


@dataclass(frozen=True)
class Given:
    """What the template sees of a conversation beyond roles, without a control text: tools and what messages hold."""

    tools: Sequence[Any] = ()
    extras: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By a message's place; an answer that calls tools has one too."""
    letters: Mapping[str, str] = field(default_factory=dict)
    """What was hidden: private letter → text."""
    silent: bool = False
    """Whether the answer calls tools without a word."""

    def __bool__(self) -> bool:
        return bool(self.tools or self.extras)


def roles_of(messages: Sequence[Message]) -> Roles:
    """Roles, and which contents a template would take for missing. An empty answer still has a place, unless it calls
    tools."""
    return tuple(
        (message.role, not message.content and (message.role != "assistant" or bool(message.calls)))
        for message in messages
    )


class Frames:
    """The frames of one template, in the tokens of one encoder."""

    def __init__(self, template: Template, encoder: Encoder) -> None:
        self._template, self._encoder = template, encoder
        self._known: dict[Roles, Frame] = {}

    def of(self, roles: Roles, given: Given = Given()) -> Frame:
        """The frame of a prompt of these messages; made once per sequence of roles, unless tools are in play.

        Raises UsageError where there is no message, ModelError where the template cannot promise that prompt and
        example agree, or refuses the roles.
        """
        if not roles:
            raise UsageError("there are no messages to answer; give at least one user message.")
        if given:
            return self._made(roles, given)
        frame = self._known.get(roles)
        if frame is None:
            frame = self._known[roles] = self._made(roles, given)
            for oldest in list(self._known)[:-KEPT]:
                self._known.pop(oldest, None)
        return frame

    def require_unread(self, messages: Sequence[Message], given: Given = Given()) -> None:
        """Refuse instructions and answers that the template itself would rewrite; a user's text is always just text.

        Raises ModelError with the message and what the template looks for in it.
        """
        if not self._template.looked_for:
            return
        suspects = {
            index: found
            for index, message in enumerate(messages)
            if message.role != "user" and (found := [t for t in self._template.looked_for if t in message.content])
        }
        for index, found in suspects.items():
            names: list[dict[str, Any]] = [
                {"role": m.role, "content": m.content and f"message{n}m", **given.extras.get(n, {})}
                for n, m in enumerate(messages)
            ]
            opaque = self._template.render(names, tools=given.tools)
            content = names[index]["content"] = messages[index].content
            if self._template.render(names, tools=given.tools) not in {
                opaque.replace(f"message{index}m", text)
                for text in (content, content.strip(), content.strip("\n"), quoted(content))
            }:
                raise ModelError(
                    f"the chat template rewrites message {index + 1} ({messages[index].role}) because its text holds "
                    f"{sorted(found)[0]!r}. Remove that from the text, or use a template that prints it as it is."
                )

    def _made(self, shape: Roles, given: Given) -> Frame:
        roles, empty = [role for role, _ in shape], [none for _, none in shape]
        context = replace(given, extras={n: extra for n, extra in given.extras.items() if n < len(roles)})
        layout = partial(self._template.layout, extras=context.extras, tools=given.tools)
        whole = layout([*roles, "assistant"], [*empty, False])
        served = layout(roles, empty, answering=True)
        answer = len(whole.slots) - 1
        if whole.slots[answer].message != len(roles):
            raise ModelError("the chat template puts other text after the answer; it cannot be used.")
        if [s.message for s in whole.slots[:-1]] != [s.message for s in served.slots] or (
            whole.scaffold[:answer] != served.scaffold[:-1]
        ):
            raise ModelError(
                "the chat template renders the prompt otherwise once an answer follows; "
                "what would be trained is not what would be served."
            )
        prompt, opened = served.scaffold[-1], whole.scaffold[answer]
        if not opened.startswith(prompt):
            raise ModelError(
                f"the chat template's generation prompt {prompt[-60:]!r} is not the beginning of its finished answer "
                f"{opened[-60:]!r}; what would be trained is not what would be served."
            )
        if whole.marked and not whole.slots[answer].generated:
            raise ModelError("the chat template has {% generation %} marks, but the answer lies outside of them.")
        gap = opened[len(prompt) :]
        lead = gap[len(gap.rstrip(" ")) :]
        frame = self._encoded(whole, answer, lead, roles, gap.removesuffix(lead), context)
        if len(roles) not in given.extras:
            return frame
        calling = layout([*roles, "assistant"], [*empty, given.silent], extras=given.extras)
        words = _calls(whole, calling, opened.removesuffix(lead), silent=given.silent)
        tail = "" if given.silent else _blank(words)
        ids, _ = self._scaffold(words.removeprefix(tail), frame.answer.continued or not given.silent, given.letters)
        return replace(frame, answer=replace(frame.answer, tail=tail), calls=tuple(ids))

    def _encoded(
        self, layout: Layout, answer: int, lead: str, roles: Sequence[str], opening: str, given: Given
    ) -> Frame:
        before: list[tuple[int, ...] | Place] = []
        ends: dict[int, int | None] = {}
        continued, tail = False, ""
        for number, slot in enumerate(layout.slots):
            piece = layout.scaffold[number].removeprefix(tail)
            # A space before a text belongs to the text's first word in every tokenizer's eyes. The answer's is only
            # given away where the generation prompt does not claim it; earlier answers follow the last one.
            is_answer = slot.message == len(roles) or roles[slot.message] == "assistant"
            space = lead if is_answer else " " * (len(piece) - len(piece.rstrip(" ")))
            space = space if piece.endswith(space) else ""
            ids, continued = self._scaffold(piece.removesuffix(space), continued, given.letters)
            if ids:
                before.append(tuple(ids))
            # An answer in words alone ends with its last word: nothing stood behind that when it was given.
            joined = given and (not is_answer or "tool_calls" in given.extras.get(slot.message, {}))
            tail = _blank(layout.scaffold[number + 1]) if joined else ""
            place = Place(slot, space, continued, tail)
            continued = True
            after, _ = self._scaffold(layout.scaffold[number + 1], True, given.letters)
            ends[slot.message] = after[0] if is_answer and after and after[0] in self._encoder.control else None
            if number == answer:
                return Frame(tuple(before), place, ends, opening)
            before.append(place)
        raise AssertionError("the answer is among the slots")

    def _scaffold(self, text: str, continued: bool, letters: Mapping[str, str]) -> tuple[list[int], bool]:
        """A template's words as ids; what was hidden in them is a person's text."""
        ids: list[int] = []
        for piece, foreign in pieces(text, letters):
            if foreign:
                new, continued = self._encoder.text(piece, continued=continued), True
            else:
                new, continued = self._encoder.scaffold(piece, continued=continued)
            ids += new
        return ids, continued


def _blank(text: str) -> str:
    """The whitespace that a text begins with."""
    return text[: len(text) - len(text.lstrip())]


def _calls(whole: Layout, calling: Layout, opened: str, *, silent: bool) -> str:
    """The words for the calls of an answer: all that `calling`, the layout with them, has more than `whole`.

    `opened`: what stands directly before the answer; `silent`: whether it has no text beside its calls. Raises
    ModelError where anything else is different: the model would not be served what it has learned.
    """
    answer = len(whole.slots) - 1
    at = answer if silent else answer + 1
    before, after = opened if silent else "", whole.scaffold[-1]
    words = calling.scaffold[-1]
    same = whole.slots[:at] == calling.slots and whole.scaffold[:at] == calling.scaffold[:-1]
    if not (same and len(words) > len(before + after) and words.startswith(before) and words.endswith(after)):
        raise ModelError(
            "the chat template renders an answer that calls tools otherwise than one in words, not only where the "
            "calls stand; what would be trained is not what would be served."
        )
    return words.removeprefix(before).removesuffix(after)
