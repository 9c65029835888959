"""The completions of one request on their way out, whole or in chunks."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from weft.generate.requests import Generation, Step
from weft.serve.answering import Speaker
from weft.serve.echo import Echo
from weft.serve.replies import EngineFailed, Piece, Replies, Speech, Token, failure
from weft.serve.server import Server
from weft.serve.token_text import LOWEST, token_text
from weft.serve.wire.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from weft.serve.wire.sampled import Usage

if TYPE_CHECKING:
    from weft.train.documents import Writer


@dataclass(frozen=True)
class Asked:
    """A request that was admitted. `generations` are the answers to the first prompt, then those to the second …"""

    speaker: Speaker
    body: CompletionRequest
    writer: Writer
    prompts: list[tuple[int, ...]]
    generations: list[Generation]
    each: int
    """Answers generated to one prompt."""
    kept: int
    """Answers given to one prompt."""

    @property
    def silent(self) -> bool:
        """Whether nothing is wanted behind the prompt: what is generated all the same is dropped."""
        return self.body.max_tokens == 0


class Continuation:
    """One request's completions on their way out, whole or in chunks."""

    def __init__(self, server: Server, request: Request, asked: Asked, replies: Replies, declared: bool) -> None:
        """`declared`: values that the API's types lack are left out (`wire/declared.py`)."""
        self._server, self._request, self._asked, self._replies = server, request, asked, replies
        self._declared = declared
        self._tokens = token_text(asked.speaker.base.chat)
        self._speeches = [Speech(self._decode, asked.body.stops(), self._tokens) for _ in asked.generations]
        self._echoes = [self._echo(place // asked.each) for place in range(len(asked.prompts) * asked.each)]
        self._head = {
            "id": "cmpl-" + secrets.token_hex(12),
            "object": "text_completion",
            "created": int(server.clock()),
            "model": asked.body.model,
            "system_fingerprint": asked.speaker.fingerprint,
        }

    def _decode(self, ids: Sequence[int]) -> str:
        return self._asked.writer.encoder.decode(ids, continued=True)

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises ApiError 500 where the engine gave up."""
        heard: list[list[Piece]] = [[] for _ in self._speeches]
        try:
            async for number, step in self._replies.steps():
                self._echoes[number].hear(step)
                heard[number].append(self._heard(number, step))
        except EngineFailed as error:
            raise failure(self._server, error, self._request) from None
        if not heard:
            heard = [[Piece("", (), "length")] for _ in range(len(self._asked.prompts) * self._asked.each)]
        choices = [self._choice(index, number, heard[number]) for index, number in enumerate(self._best(heard))]
        return Completion(**self._head, choices=choices, usage=self._usage()).to_json()

    async def stream(self) -> AsyncGenerator[str]:
        """The chunks as JSON, then `[DONE]`. Whatever happens, the slots are free afterwards."""
        body, pieces = self._asked.body, self._pieces()
        told = [0] * len(self._echoes)
        try:
            async for number, piece in _whole(pieces, len(told)) if self._declared else pieces:
                yield self._chunk(number, piece, told[number])
                told[number] += len(piece.text)
            if body.stream_options is not None and body.stream_options.include_usage:
                yield json.dumps(self._head | {"choices": [], "usage": self._usage().model_dump()})
        except EngineFailed as error:
            yield json.dumps(failure(self._server, error, self._request).envelope())
        finally:
            self._replies.close()
        yield "[DONE]"

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """(number of the choice, what there is to tell of it), as it comes: first the echo, where one is wanted."""
        for number, echo in enumerate(self._echoes):
            if echo.text and echo.complete:
                yield number, Piece(echo.text, tuple(echo.tokens), None)
            if not self._speeches:
                yield number, Piece("", (), "length")
        async for number, step in self._replies.steps():
            echo = self._echoes[number]
            if echo.hear(step):
                yield number, Piece(echo.text, tuple(echo.tokens), None)
            piece = self._heard(number, step)
            if piece.text or piece.tokens or piece.finish:
                yield number, piece

    def _heard(self, number: int, step: Step) -> Piece:
        piece = self._speeches[number].hear(step)
        if piece.finish:
            self._replies.end(number)
        if self._asked.silent:
            return Piece("", (), "length" if piece.finish else None)
        return piece

    def _best(self, heard: list[list[Piece]]) -> list[int]:
        """The generations to give, in order: of each prompt's those whose tokens are most probable on average."""
        each, kept = self._asked.each, self._asked.kept
        groups = [range(start, start + each) for start in range(0, len(heard), each)]
        if each == kept:
            return [number for group in groups for number in group]

        def score(number: int) -> float:
            logprobs = [token.logprob for piece in heard[number] for token in piece.tokens]
            return sum(logprobs) / len(logprobs) if logprobs else LOWEST

        return [number for group in groups for number in sorted(group, key=score, reverse=True)[:kept]]

    def _choice(self, index: int, number: int, pieces: list[Piece]) -> CompletionChoice:
        echo = self._echoes[number]
        tokens = [token for piece in pieces for token in piece.tokens]
        return CompletionChoice(
            text="".join([echo.text, *(piece.text for piece in pieces)]),
            index=index,
            logprobs=self._logprobs([*echo.tokens, *tokens], 0),
            finish_reason=pieces[-1].finish or "length",
        )

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> CompletionLogprobs | None:
        """`offset`: characters of the choice before these tokens."""
        most = self._asked.body.logprobs
        if most is None:
            return None
        texts = [self._tokens.text(token.id) for token in tokens]
        offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
        unknown = LOWEST if self._declared else None
        own = [unknown if math.isnan(token.logprob) else max(token.logprob, LOWEST) for token in tokens]
        return CompletionLogprobs(
            tokens=texts,
            token_logprobs=own,
            top_logprobs=[self._top(token) for token in tokens] if most else None,
            text_offset=offsets,
        )

    def _top(self, token: Token) -> dict[str, float] | None:
        """The most probable tokens at a place, and the one that stands there; none where nothing was predicted."""
        if math.isnan(token.logprob):
            return {} if self._declared else None
        shown = (*token.top, (token.id, token.logprob))
        return {self._tokens.text(id_): max(logprob, LOWEST) for id_, logprob in shown}

    def _echo(self, number: int) -> Echo:
        """A prompt to be given back: what was given, or what its ids say; nothing where it is not wanted."""
        given, ids, body = prompts_of(self._asked.body)[number], self._asked.prompts[number], self._asked.body
        is_text = isinstance(given, str)
        if not body.echo:
            return Echo("", ids, begun=True, scored=False)
        text = given if is_text else self._decode(given)
        return Echo(text, ids, begun=is_text, scored=body.logprobs is not None)

    def _usage(self) -> Usage:
        """Each prompt counts once, however many answers there are to it; all that was generated counts."""
        groups = [self._speeches[at : at + self._asked.each] for at in range(0, len(self._speeches), self._asked.each)]
        return Usage.of(
            sum(map(len, self._asked.prompts)),
            0 if self._asked.silent else sum(speech.generated for speech in self._speeches),
            sum(min(speech.cached for speech in group) for group in groups),
        )

    def _chunk(self, index: int, piece: Piece, offset: int) -> str:
        logprobs = self._logprobs(piece.tokens, offset) if piece.tokens else None
        choice = {
            "text": piece.text,
            "index": index,
            "logprobs": logprobs.model_dump() if logprobs else None,
            "finish_reason": piece.finish,
        }
        options = self._asked.body.stream_options
        usage = {"usage": None} if options is not None and options.include_usage else {}
        return json.dumps(self._head | {"choices": [choice]} | usage)


async def _whole(pieces: AsyncIterator[tuple[int, Piece]], choices: int) -> AsyncGenerator[tuple[int, Piece]]:
    """Each choice in one piece, when it ends: no declared value says that a choice goes on."""
    waiting: list[list[Piece]] = [[] for _ in range(choices)]
    async for number, piece in pieces:
        waiting[number].append(piece)
        if piece.finish:
            text = "".join(one.text for one in waiting[number])
            yield number, Piece(text, tuple(token for one in waiting[number] for token in one.tokens), piece.finish)


def prompts_of(body: CompletionRequest) -> Sequence[str | list[int]]:
    """Each prompt, as text or as ids."""
    prompt = body.prompt
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return prompt  # type: ignore[return-value]
