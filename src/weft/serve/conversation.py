"""The answers to one conversation on their way out, whole or in chunks."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from weft.generate.requests import Generation, Step
from weft.records import Call
from weft.serve.answering import Speaker
from weft.serve.replies import EngineFailed, Piece, Replies, Speech, Token, failure
from weft.serve.server import Server
from weft.serve.token_text import TokenText, token_text
from weft.serve.tool_calls import CallReader
from weft.serve.tools import Toolset
from weft.serve.wire.chat import ChatRequest
from weft.serve.wire.chat_answer import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    Logprobs,
    MadeCall,
    MadeFunctionCall,
    TokenLogprob,
)
from weft.serve.wire.sampled import Usage


@dataclass(frozen=True)
class Asked:
    """A request that was admitted: everything is checked, nothing is generated yet."""

    speaker: Speaker
    body: ChatRequest
    tools: Toolset | None
    generations: list[Generation]
    opening: str
    """How a call begins in generated text."""

    @property
    def logprobs(self) -> bool:
        return bool(self.body.logprobs)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one step added to an answer."""

    content: str
    calls: tuple[Call, ...]
    tokens: tuple[Token, ...]
    finish: str | None


class _Answer:
    """One of the `n` answers while it is spoken."""

    def __init__(self, asked: Asked, tokens: TokenText) -> None:
        self.speech = Speech(asked.speaker.base.chat.decode, asked.body.stops(), tokens)
        self._reader = CallReader(asked.tools, asked.opening) if asked.tools else None

    def take(self, step: Step) -> _Taken:
        piece = self.speech.hear(step)
        if self._reader is None:
            return _Taken(piece.text, (), piece.tokens, piece.finish)
        return self._read(self._reader, piece)

    def _read(self, reader: CallReader, piece: Piece) -> _Taken:
        parts = [*reader.push(piece.text), *(reader.rest() if piece.finish else ())]
        calls = tuple(part for part in parts if isinstance(part, Call))
        content = "".join(part for part in parts if isinstance(part, str))
        finish = "tool_calls" if reader.enough or (reader.calls and piece.finish == "stop") else piece.finish
        return _Taken(content, calls, piece.tokens, finish)


class Conversation:
    """One request's answers on their way out, whole or in chunks."""

    def __init__(self, server: Server, request: Request, asked: Asked, replies: Replies) -> None:
        self._server, self._request, self._asked, self._replies = server, request, asked, replies
        self._tokens = token_text(asked.speaker.base.chat)
        self._answers = [_Answer(asked, self._tokens) for _ in asked.generations]
        self._head = {
            "id": "chatcmpl-" + secrets.token_hex(12),
            "created": int(server.clock()),
            "model": asked.body.model,
            "system_fingerprint": asked.speaker.fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises ApiError 500 where the engine gave up."""
        taken: list[list[_Taken]] = [[] for _ in self._answers]
        try:
            async for number, one in self._taken():
                taken[number].append(one)
        except EngineFailed as error:
            raise failure(self._server, error, self._request) from None
        choices = [self._choice(number, parts) for number, parts in enumerate(taken)]
        return ChatCompletion(**self._head, choices=choices, usage=self._usage()).to_json()

    async def stream(self) -> AsyncGenerator[str]:
        """The chunks as JSON, then `[DONE]`. Whatever happens, the slots are free afterwards."""
        try:
            for number in range(len(self._answers)):
                yield self._chunk(number, {"role": "assistant", "content": "", "refusal": None})
            calls = [0] * len(self._answers)
            async for number, one in self._taken():
                deltas = _deltas(one, calls[number])
                calls[number] += len(one.calls)
                for place, delta in enumerate(deltas):
                    yield self._chunk(number, delta, () if place else one.tokens)
                if one.finish:
                    yield self._chunk(number, {}, () if deltas else one.tokens, one.finish)
            options = self._asked.body.stream_options
            if options is not None and options.include_usage:
                yield json.dumps(self._shared() | {"choices": [], "usage": self._usage().model_dump()})
        except EngineFailed as error:
            yield json.dumps(failure(self._server, error, self._request).envelope())
        finally:
            self._replies.close()
        yield "[DONE]"

    async def _taken(self) -> AsyncIterator[tuple[int, _Taken]]:
        async for number, step in self._replies.steps():
            one = self._answers[number].take(step)
            if one.finish:
                self._replies.end(number)
            yield number, one

    def _choice(self, number: int, parts: list[_Taken]) -> Choice:
        content = "".join(part.content for part in parts)
        calls = [
            MadeCall(id=call.id, function=MadeFunctionCall(name=call.name, arguments=call.arguments))
            for part in parts
            for call in part.calls
        ]
        tokens = [TokenLogprob(**self._entry(token)) for part in parts for token in part.tokens]
        return Choice(
            index=number,
            message=AnswerMessage(content=content or (None if calls else ""), tool_calls=calls or None),
            finish_reason=parts[-1].finish,  # type: ignore[arg-type]
            logprobs=Logprobs(content=tokens) if self._asked.logprobs else None,
        )

    def _entry(self, token: Token) -> dict[str, Any]:
        return self._tokens.entry(token.id, token.logprob, token.top)

    def _usage(self) -> Usage:
        """The prompt counts once, however many answers there are."""
        speeches = [answer.speech for answer in self._answers]
        return Usage.of(
            len(self._asked.generations[0].prompt),
            sum(speech.generated for speech in speeches),
            min(speech.cached for speech in speeches),
        )

    def _shared(self) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "service_tier": "default"}

    def _chunk(
        self, number: int, delta: dict[str, Any], tokens: tuple[Token, ...] = (), finish: str | None = None
    ) -> str:
        logprobs = {"content": [self._entry(token) for token in tokens], "refusal": None} if tokens else None
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        options = self._asked.body.stream_options
        usage = {"usage": None} if options is not None and options.include_usage else {}
        return json.dumps(self._shared() | {"choices": [choice]} | usage)


def _deltas(one: _Taken, before: int) -> list[dict[str, Any]]:
    """A step's deltas: its text, then each call as its name and then its arguments. `before`: calls told already."""
    deltas: list[dict[str, Any]] = [{"content": one.content}] if one.content else []
    for number, call in enumerate(one.calls, before):
        opened = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        deltas.append({"tool_calls": [{"index": number, **opened}]})
        deltas.append({"tool_calls": [{"index": number, "function": {"arguments": call.arguments}}]})
    return deltas
