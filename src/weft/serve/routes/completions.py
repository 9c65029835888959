"""`POST /v1/completions`: text goes on as it stands. And `/v1/embeddings`, which no base here can answer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from weft.errors import ModelError
from weft.generate.requests import Generation
from weft.serve.access import Asker
from weft.serve.answering import Speaker, draws, refuse_endless, room, speaker
from weft.serve.continuation import Asked, Continuation, prompts_of
from weft.serve.errors import ApiError, invalid
from weft.serve.replies import Replies
from weft.serve.respond import respond
from weft.serve.server import Server
from weft.serve.wire.completions import Completion, CompletionRequest
from weft.serve.wire.declared import Declared, applied
from weft.serve.wire.error import answers

if TYPE_CHECKING:
    from weft.models.load import Base
    from weft.train.documents import Writer

DEFAULT_TOKENS = 16
MOST_ANSWERS = 512
"""Prompts times answers of one request."""


def router(server: Server) -> APIRouter:
    """The routes for plain text."""
    routes = APIRouter(prefix="/v1", tags=["completions"])

    @routes.post(
        "/completions", responses=answers(404) | {200: {"model": Completion, "content": {"text/event-stream": {}}}}
    )
    async def create(request: Request, body: CompletionRequest, asker: Asker, declared: Declared) -> Response:
        """Continue one text or several; with `stream`, as server-sent events that end in `[DONE]`."""
        who = await speaker(server, body.model, asker.owner)
        prepare = functools.partial(_prepare, who, body, asker.owner)
        asked = await server.entrance.prepared(request, who.engine, asker.owner, prepare)
        replies = Replies(asked.speaker.engine, asked.generations)
        outgoing = Continuation(server, request, asked, replies, declared)
        response = await respond(server, request, body, replies, outgoing)
        if declared:
            applied(response)
        return response

    @routes.post("/embeddings", status_code=404, responses=answers(404))
    async def embeddings(asker: Asker) -> Response:
        """Always 404: the bases here generate text."""
        raise ApiError(
            404,
            "This server makes no embeddings: its bases are language models that generate text.",
            code="unsupported_endpoint",
        )

    return routes


def _prepare(who: Speaker, body: CompletionRequest, owner: str) -> Asked:
    """Check a request and make its prompts. Raises ApiError 400."""
    kept = body.n or 1
    each = body.best_of or kept
    _refuse_unknown_arts(body, each, kept)
    try:
        writer = _writer(who.base)
    except ModelError as error:
        raise invalid(f"This base cannot continue plain text: {error}", "model") from None
    told = 0 if each > kept and body.logprobs is None else body.logprobs  # the best is found by them
    prompts = [_ids(who, writer, prompt) for prompt in prompts_of(body)]
    if len(prompts) * each > MOST_ANSWERS:
        raise invalid(f"{len(prompts)} prompts with {each} answers each are more than {MOST_ANSWERS}.", "prompt")
    asked = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    scored = body.logprobs if body.echo else None
    generations = []
    for prompt in prompts:
        most = room(who, len(prompt), asked, "prompt")
        ends = who.base.chat.end_ids | {writer.end}
        if asked or scored is not None:  # to be scored, a prompt needs an answer: one token, which is not told
            generations += [
                Generation(prompt, draw, who.adapter, ends, None, owner, scored)
                for draw in draws(who, body, each, max(1, most), told)
            ]
    return Asked(who, body, writer, prompts, generations, each, kept)


@functools.lru_cache(maxsize=16)
def _writer(base: Base) -> Writer:
    """How documents are written for a base; made once."""
    from weft.train.documents import Writer

    return Writer.of(base, base.context)


def _refuse_unknown_arts(body: CompletionRequest, each: int, kept: int) -> None:
    if body.suffix is not None:
        raise invalid("`suffix` is not supported: bases here know no text that follows.", "suffix")
    if each < kept:
        raise invalid(f"`best_of` ({each}) must be at least `n` ({kept}).", "best_of")
    if body.stream and each > kept:
        raise invalid("`best_of` cannot be streamed: the best is known at the end.", "best_of")
    if body.stream_options is not None and not body.stream:
        raise invalid("`stream_options` is only allowed when `stream` is true.", "stream_options")


def _ids(who: Speaker, writer: Writer, prompt: str | list[int]) -> tuple[int, ...]:
    """A prompt's ids: a text stands at the beginning of a document, as it would in training; ids are taken as given."""
    if isinstance(prompt, str):
        refuse_endless(who, len(prompt), "prompt")
        try:
            return (writer.begin, *writer.encoder.text(prompt, continued=False))
        except (ModelError, UnicodeEncodeError) as error:
            raise invalid(f"The prompt cannot be read: {error}", "prompt") from None
    unknown = next((id_ for id_ in prompt if id_ >= who.base.vocabulary), None)
    if unknown is not None:
        raise invalid(f"prompt: token {unknown} is not below {who.base.vocabulary:,}.", "prompt")
    return tuple(prompt)
