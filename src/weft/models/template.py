"""Render a chat template in a sandbox and find out where it puts each message's text.

The template never sees the text: each content is a marker, so the rendering depends on the roles alone. What it prints
around a marker is scaffold; what it does to one (`| trim`, `lstrip("\\n")`, `| tojson`) is found with padded markers.
Which strings it looks for inside contents is read from its source. Tokens are the business of `chat.py`.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.errors import ModelError

# Whitespace that no template writes itself: what is left of it says how a content was stripped.
_LEFT, _RIGHT = "\n\v\n", "\n\f\n"
MAX_SOURCE = 200_000
"""Characters; the longest real template known to us has 17,000."""
QUOTED = '"'
"""In the place of stripped characters: the text is printed as what stands between the quotes of a JSON string."""
_STRIPS: tuple[str | None, ...] = ("", "\n", None, QUOTED)
Extras = Mapping[int, Mapping[str, Any]]
"""What single messages have beyond role and content, by their place: `tool_calls`, `name` …"""


@dataclass(frozen=True)
class Slot:
    """Where a message's text goes, and which characters the template strips from it (None: all whitespace)."""

    message: int
    strip_left: str | None
    strip_right: str | None
    generated: bool
    """Whether it lies inside a `{% generation %}` block."""

    def clean(self, content: str) -> str:
        """The text as the template would print it."""
        if QUOTED in (self.strip_left, self.strip_right):
            return quoted(content)
        for strip, side in ((self.strip_left, str.lstrip), (self.strip_right, str.rstrip)):
            content = content if strip == "" else side(content, strip)
        return content


@dataclass(frozen=True)
class Layout:
    """A rendering taken apart: `scaffold[0] slot[0] scaffold[1] … slot[n-1] scaffold[n]`."""

    scaffold: tuple[str, ...]
    slots: tuple[Slot, ...]

    @property
    def marked(self) -> bool:
        """Whether the template says by `{% generation %}` what is learned."""
        return any(slot.generated for slot in self.slots)


class Template:
    """One compiled chat template. `date` is what `strftime_now` answers with: fixed, so that two days agree.

    Raises ModelError where the template is not valid Jinja.
    """

    looked_for: frozenset[str]
    """Strings that the template compares, splits or replaces with: what it may look for in contents."""
    marks: tuple[str, ...]
    """What no foreign text that the template is shown may hold."""

    def __init__(self, source: str, special: Mapping[str, str], date: datetime.date) -> None:
        if len(source) > MAX_SOURCE:
            raise ModelError(f"the chat template is {len(source):,} characters long, longer than {MAX_SOURCE:,}.")
        self.source = source
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        # Between signs that hardly a word ends or begins with: where one does, disguise.py takes it apart.
        self._mark, self._open, self._close = (f"~{word}{digest}~" for word in ("text", "opens", "closes"))
        moment = datetime.datetime.combine(date, datetime.time(12))
        self.marks = (self._mark, self._open, self._close)
        self._given = {
            "bos_token": "",
            "eos_token": "",
            **special,
            "strftime_now": moment.strftime,
            "weft_open": self._open,
            "weft_close": self._close,
        }
        self._compiled, self.looked_for = _compile(source)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, answering: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        """The template's text for these messages; `answering` adds what comes before the model's reply.

        Raises ModelError where the template refuses the messages.
        """
        return self._unmarked(self._render(messages, answering, tools))

    def _render(self, messages: Sequence[Mapping[str, Any]], answering: bool, tools: Sequence[Any]) -> str:
        try:
            return self._compiled.render(
                messages=[dict(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=answering,
                **self._given,
            )
        except Exception as error:  # a template is foreign code: whatever it raises is its refusal
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"the chat template refuses the roles [{roles}]: {error}.") from None

    def layout(
        self,
        roles: Sequence[str],
        empty: Sequence[bool],
        *,
        answering: bool = False,
        extras: Extras | None = None,
        tools: Sequence[Any] = (),
    ) -> Layout:
        """Scaffold and slots for a conversation of these roles; `empty` contents are shown to the template as empty.

        Raises ModelError where a content is dropped, doubled or changed in a way that is not a strip.
        """
        plain = self._pieces(roles, empty, ("", ""), answering, extras or {}, tools)
        padded = self._pieces(roles, empty, (_LEFT, _RIGHT), answering, extras or {}, tools)
        if [index for index, _ in plain[1]] != [index for index, _ in padded[1]]:
            raise ModelError("the chat template moves messages when they begin with whitespace; it cannot be used.")
        scaffold, slots = plain
        edges = [
            _edges(before, after, first=number == 0, last=number == len(slots))
            for number, (before, after) in enumerate(zip(scaffold, padded[0], strict=True))
        ]
        return Layout(
            tuple(scaffold),
            tuple(
                Slot(index, edges[number][1], edges[number + 1][0], generated)
                for number, (index, generated) in enumerate(slots)
            ),
        )

    def _pieces(
        self,
        roles: Sequence[str],
        empty: Sequence[bool],
        padding: tuple[str, str],
        answering: bool,
        extras: Extras,
        tools: Sequence[Any],
    ) -> tuple[list[str], list[tuple[int, bool]]]:
        """The texts between the markers, and the message of each marker with whether it lies in a generation block."""
        left, right = padding
        contents = ["" if none else f"{left}{self._mark}n{index}e{right}" for index, none in enumerate(empty)]
        messages = [
            {"role": role, "content": contents[index], **extras.get(index, {})} for index, role in enumerate(roles)
        ]
        text = self._render(messages, answering, tools)
        rest, *found = re.split(rf"{self._mark}n([0-9]{{1,9}})e", text)  # text, message, text, message … text
        counts = Counter(int(index) for index in found[::2])
        for index, none in enumerate(empty):
            if counts[index] != (0 if none else 1):
                happened = "repeats" if counts[index] else "drops"
                raise ModelError(f"the chat template {happened} the text of message {index + 1} ({roles[index]}).")
        pieces, slots, inside = [], [], False
        for index, after in zip(found[::2], found[1::2], strict=True):
            inside = self._inside(rest, inside)
            pieces.append(self._unmarked(rest))
            slots.append((int(index), inside))
            rest = after
        return [*pieces, self._unmarked(rest)], slots

    def _inside(self, text: str, inside: bool) -> bool:
        opened, closed = text.rfind(self._open), text.rfind(self._close)
        return inside if opened == closed == -1 else opened > closed

    def _unmarked(self, text: str) -> str:
        return text.replace(self._open, "").replace(self._close, "")


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: prints marks round the block, which `Template` reads and removes."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as a plain set)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        edges = [
            nodes.Output([nodes.Name(name, "load", lineno=line)], lineno=line) for name in ("weft_open", "weft_close")
        ]
        return [edges[0], *body, edges[1]]


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> tuple[jinja2.Template, frozenset[str]]:
    """The template in the sandbox, and the string constants that it compares with or passes to methods."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    try:
        tree = environment.parse(source)
        found = {text for compare in tree.find_all(nodes.Compare) for text in _constants(compare)}
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Getattr):
                found.update(_constants(*call.args))
        return environment.from_string(tree), frozenset(text for text in found if text.strip())
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template is not valid Jinja (line {error.lineno}: {error.message}).") from None


def _edges(plain: str, padded: str, *, first: bool, last: bool) -> tuple[str | None, str | None]:
    """How the content before and the content after a piece of scaffold are stripped where they touch it."""
    for before in _STRIPS if not first else ("",):
        for after in _STRIPS if not last else ("",):
            left = "" if first else _padding_left(_RIGHT, before, str.rstrip)
            right = "" if last else _padding_left(_LEFT, after, str.lstrip)
            if padded == left + plain + right:
                return before, after
    raise ModelError("the chat template changes the text of messages beyond stripping whitespace; it cannot be used.")


def _padding_left(padding: str, strip: str | None, side: Callable[..., str]) -> str:
    if strip == QUOTED:
        return quoted(padding)
    return padding if strip == "" else side(padding, strip)


def quoted(text: str) -> str:
    """What stands between the quotes where a template prints a text as JSON."""
    return _tojson(text)[1:-1]


def _constants(*trees: nodes.Node) -> set[str]:
    every = {node for tree in trees for node in (tree, *tree.find_all(nodes.Const))}
    return {node.value for node in every if isinstance(node, nodes.Const) and isinstance(node.value, str)}


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
