"""Messages to tokens: what was trained is what is served. The only owner of chat templates.

    prompt(messages)            the ids that a server feeds before the model answers
    example(messages + answer)  the same ids without loss, then the answer and its end token with loss

Both come from one frame of the template (`frame.py`), so they cannot differ. Message text is encoded apart from the
template's scaffold and never yields a control token, so no text can forge a role (a template whose roles are mere
words, as `plain.jinja`, cannot promise that: `Chat.separable`). Idea after karpathy/nanochat `tokenizer.py` and
tinker-cookbook's renderers.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from weft.errors import ModelError, UsageError
from weft.models import tool_form
from weft.models.disguise import Disguise
from weft.models.encode import Cut, Encoder
from weft.models.frame import Frame, Frames, Given, Place, roles_of
from weft.models.template import Template
from weft.models.tool_form import Tool
from weft.records import Message, Tokens

PLAIN = Path(__file__).with_name("plain.jinja")
# Templates that print today's date would otherwise serve another prompt than they were trained with.
DATE = datetime.date(2024, 7, 26)


class Chat:
    """One tokenizer with its chat template; the only place that turns messages into tokens.

    `tokenizer`: a transformers fast tokenizer. `template`: Jinja text; without it the tokenizer's own, else weft's
    plain one. `end_token`: the token that ends a reply, where the template's is not one that the model knows.
    `end_ids`: further ids that end a reply (generation_config). `date`: what a template sees as today.
    Raises ModelError where prompt and example of the template cannot agree, with the reason.
    """

    end_id: int
    """The token that ends a reply in training."""
    end_ids: frozenset[int]
    """All tokens that end a reply when generating."""
    origin: str
    """Where the template came from, in words."""
    opening: str
    """Scaffold that the template puts before each final answer, beyond its generation prompt (an empty think block)."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        *,
        end_token: str | None = None,
        end_ids: Collection[int] = (),
        date: datetime.date = DATE,
    ) -> None:
        self.tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        special = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        if end_token is not None:
            if end_token not in self._encoder.added:
                raise ModelError(f"end token {end_token!r}: the tokenizer has no such control token. {self._known()}")
            special["eos_token"] = end_token
        source, self.origin = _choose(tokenizer, template)
        self._template = Template(source, special, date)
        self._frames = Frames(self._template, self._encoder)
        self._fallback_end = self._encoder.added.get(special.get("eos_token", ""))
        self._forced_end = self._fallback_end if end_token is not None else None
        frame = self._frames.of((("user", False),))
        self.opening = frame.opening
        self._lead, self._continued = frame.answer.lead, frame.answer.continued
        self.end_id = self._end(frame)
        eos = self._encoder.added.get(str(tokenizer.eos_token or ""))
        self.end_ids = frozenset({self.end_id, *end_ids} | ({eos} if eos is not None else set()))

    @property
    def template(self) -> str:
        """The Jinja text in use: what an export writes beside the model."""
        return self._template.source

    @property
    def accepts_system(self) -> bool:
        """Whether the template takes a system message."""
        try:
            self._frames.of((("system", False), ("user", False)))
        except ModelError:
            return False
        return True

    @property
    def separable(self) -> bool:
        """Whether each turn is marked by a control token, which no text can forge."""
        frame = self._frames.of((("user", False), ("assistant", False), ("user", False)))
        pieces = [set(part) for part in frame.before if isinstance(part, tuple)]
        return all(piece & self._encoder.control for piece in pieces[1:])

    @cached_property
    def tool_form(self) -> tool_form.ToolForm:
        """How the base writes calls of tools. Raises ModelError where its template knows none."""
        texts = {id_: text for text, id_ in self._encoder.added.items()}
        ends = [texts[id_] for id_ in self.end_ids if id_ in texts]
        return tool_form.find(self._template.render, self.opening, ends)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The ids to feed before generating the reply, which may call `tools`.

        Raises ModelError where the template refuses the messages, or knows no tools and there are some.
        """
        given = self._given(messages, tools)
        self._frames.require_unread(messages, given)
        return self._fill(self._frames.of(roles_of(messages), given), messages)

    def scaffold(self, text: str) -> list[int]:
        """Words of the template as they stand at the beginning of a reply: what a reply can be made to begin with."""
        return self._encoder.scaffold(text, continued=self._continued)[0]

    def text(self, ids: Sequence[int]) -> str:
        """Ids that continue ordinary text, as text."""
        return self._encoder.decode(ids, continued=True)

    def example(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        learn: Literal["last", "all"] | Collection[int] = "last",
        cut: Cut | None = None,
    ) -> Tokens:
        """A conversation that ends in its ideal answer, as ids with what is learned: the answer and its end token.

        An answer is its text and its calls of `tools`, in the template's words. `all` learns every assistant turn, each
        after exactly its own prompt; places in `messages` choose among them. `cut` takes the user's words apart, all
        else is as it is served.
        Raises ModelError where the template renders earlier turns otherwise than last ones, or knows no tools and there
        are some; UsageError where the last message is not the assistant's.
        """
        if not messages or messages[-1].role != "assistant":
            found = f"ends in a {messages[-1].role!r} message" if messages else "is empty"
            raise UsageError(f"the conversation {found}; an example must end in the assistant's answer.")
        given = self._given(messages, tools)
        self._frames.require_unread(messages, given)
        *context, answer = messages
        frame = self._frames.of(roles_of(context), given)
        turns = frozenset(place for place, message in enumerate(messages) if message.role == "assistant")
        wanted = turns & set(learn) if not isinstance(learn, str) else turns if learn == "all" else {len(context)}
        if not given:
            self._require_learnable(frame, context, wanted)
        ids: list[int] = []
        learn_flags: list[bool] = []

        def add(new: Sequence[int], flag: bool) -> None:
            ids.extend(new)
            learn_flags.extend([flag] * len(new))

        closes = False
        for part in frame.before:
            if isinstance(part, Place):
                closes = part.slot.message in wanted and not given
                said_by_user = messages[part.slot.message].role == "user"
                add(self._words(part, messages, cut if said_by_user else None), closes)
            else:
                head = 1 if closes else 0
                add(part[:head], True)
                add(part[head:], False)
        if answer.content or not answer.calls:
            add(self._words(frame.answer, messages), len(context) in wanted)
        add(frame.calls, len(context) in wanted)
        add([self._end(frame)], len(context) in wanted)
        # Calls are scaffold too, so which of it is learned shows where each earlier answer is the last one.
        for turn in sorted(wanted - {len(context)}) if given else ():
            alone = self.example(messages[: turn + 1], tools, cut=cut)
            self._require_same(ids, alone, turn)
            learn_flags[: len(alone.ids)] = [a or b for a, b in zip(learn_flags, alone.learn, strict=False)]
        return Tokens(tuple(ids), tuple(learn_flags))

    def decode(self, ids: Sequence[int]) -> str:
        """Generated ids as the reply's text, up to the first end token."""
        stop = next((place for place, id_ in enumerate(ids) if id_ in self.end_ids), len(ids))
        text = self._encoder.decode(ids[:stop], continued=self._continued)
        return text.removeprefix(self._lead)

    def show(self, tokens: Tokens, *, plain: bool = False) -> str:
        """The tokens for a person's eye: learned ones green, or with `plain` in [brackets]."""
        before, after = ("[", "]") if plain else ("\x1b[32m", "\x1b[0m")
        parts = []
        for place, (id_, learned) in enumerate(zip(tokens.ids, tokens.learn, strict=True)):
            starts = learned and (place == 0 or not tokens.learn[place - 1])
            ends = learned and (place + 1 == len(tokens.ids) or not tokens.learn[place + 1])
            parts.append(before * starts + self._encoder.token(id_) + after * ends)
        return "".join(parts)

    def _given(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Given:
        """Tools, calls and their answers as the template may see them."""
        extras: dict[str, Any] = {}
        for place, message in enumerate(messages):
            if message.calls:
                extras[str(place)] = {"tool_calls": [self.tool_form.shown(call) for call in message.calls]}
            if message.answers is not None:
                extras[str(place)] = {"name": message.answers.name, "tool_call_id": message.answers.id}
        if not extras and not tools:
            return Given()
        _ = self.tool_form  # refuses where the template knows no tools
        told = [tool_form.shown(tool) for tool in tools]
        (shown_tools, shown), letters = self._disguise.hide([told, list(extras.values())])
        silent = any(message.calls and not message.content for message in messages[-1:])
        return Given(shown_tools, dict(zip(map(int, extras), shown, strict=True)), letters, silent)

    @cached_property
    def _disguise(self) -> Disguise:
        return Disguise([*self._encoder.added, *self._template.marks])

    def _end(self, frame: Frame) -> int:
        """The token after the final answer: forced, the template's, else the tokenizer's end of text."""
        written = frame.ends[frame.answer.slot.message]
        end = next((id_ for id_ in (self._forced_end, written, self._fallback_end) if id_ is not None), None)
        if end is None:
            raise ModelError(
                f"neither the chat template nor the tokenizer names a token that ends a reply. {self._known()}"
            )
        return end

    def _known(self) -> str:
        names = ", ".join(list(self._encoder.added)[:12])
        return f"Name one of its control tokens as end token: {names or 'it has none, so add one first'}."

    def _require_learnable(self, frame: Frame, context: Sequence[Message], wanted: Collection[int]) -> None:
        """Raise ModelError where an earlier answer does not stand after exactly the prompt it would be served with."""
        for turn in sorted(turn for turn in wanted if turn < len(context)):
            alone = self._frames.of(roles_of(context[:turn])) if turn else None
            place = next(n for n, p in enumerate(frame.before) if isinstance(p, Place) and p.slot.message == turn)
            same = alone is not None and frame.before[:place] == alone.before and frame.before[place] == alone.answer
            _require_as_served(turn, same=same, ends=frame.ends[turn] in self.end_ids)

    def _require_same(self, ids: Sequence[int], alone: Tokens, turn: int) -> None:
        """The same of an answer among tools, `alone` as the last one."""
        *before, _ = alone.ids
        same = list(ids[: len(before)]) == before
        _require_as_served(turn, same=same, ends=same and ids[len(before)] in self.end_ids)

    def _fill(self, frame: Frame, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = []
        for part in frame.before:
            ids.extend(self._words(part, messages) if isinstance(part, Place) else part)
        return ids

    def _words(self, place: Place, messages: Sequence[Message], cut: Cut | None = None) -> list[int]:
        content = place.slot.clean(messages[place.slot.message].content)
        return self._encoder.text(place.lead + content + place.tail, continued=place.continued, cut=cut)


def _require_as_served(turn: int, *, same: bool, ends: bool) -> None:
    """Raise ModelError where the answer in message `turn` is not the `same` as a last one, or no token `ends` it."""
    if not (same and ends):
        problem = "without a token that ends it" if same else "after another prompt than it is served with"
        raise ModelError(
            f"the chat template renders the earlier answer in message {turn + 1} {problem}, so it cannot be "
            "learned here. Learn the last answer only, or give each answer as an example of its own."
        )


def _choose(tokenizer: Any, template: str | None) -> tuple[str, str]:
    """The template to use and where it came from."""
    if template is not None:
        return template, "the template that was given"
    own = tokenizer.chat_template
    if isinstance(own, dict):  # some models name several; the one for plain conversations is called default
        own = own.get("default")
    if own:
        return str(own), "the tokenizer's chat template"
    return PLAIN.read_text(encoding="utf-8"), "weft's plain template (the tokenizer has none)"
