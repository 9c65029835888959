"""`POST /v1/chat/completions`, and an honest word for the stored ones that this server does not keep."""

from __future__ import annotations

import json
from functools import partial

from fastapi import APIRouter, Request, Response

from weft.errors import ModelError
from weft.generate.requests import Generation
from weft.serve.access import Asker
from weft.serve.answering import Speaker, draws, refuse_endless, room, speaker
from weft.serve.chat_messages import turns
from weft.serve.constraints import constraint
from weft.serve.conversation import Asked, Conversation
from weft.serve.errors import ApiError, invalid
from weft.serve.replies import Replies
from weft.serve.respond import respond
from weft.serve.server import Server
from weft.serve.tools import toolset
from weft.serve.wire.chat import ChatRequest
from weft.serve.wire.chat_answer import ChatCompletion
from weft.serve.wire.error import answers


def router(server: Server) -> APIRouter:
    """The chat routes."""
    routes = APIRouter(prefix="/v1/chat/completions", tags=["chat"])

    @routes.post("", responses=answers(404) | {200: {"model": ChatCompletion, "content": {"text/event-stream": {}}}})
    async def create(request: Request, body: ChatRequest, asker: Asker) -> Response:
        """Answer a conversation; with `stream`, as server-sent events that end in `[DONE]`."""
        who = await speaker(server, body.model, asker.owner)
        prepare = partial(_prepare, who, body, asker.owner)
        asked = await server.entrance.prepared(request, who.engine, asker.owner, prepare)
        replies = Replies(asked.speaker.engine, asked.generations)
        return await respond(server, request, body, replies, Conversation(server, request, asked, replies))

    @routes.get("", status_code=404, responses=answers(404), operation_id="list_stored_completions")
    async def stored(asker: Asker) -> Response:
        """Completions are not stored: always 404."""
        raise ApiError(404, "Chat completions are not stored by this server, so there are none to look up.")

    @routes.get("/{completion_id}", status_code=404, responses=answers(404), operation_id="get_stored")
    @routes.post("/{completion_id}", status_code=404, responses=answers(404), operation_id="update_stored")
    @routes.delete("/{completion_id}", status_code=404, responses=answers(404), operation_id="delete_stored")
    @routes.get(
        "/{completion_id}/messages", status_code=404, responses=answers(404), operation_id="get_stored_messages"
    )
    async def one_stored(completion_id: str, asker: Asker) -> Response:
        """Completions are not stored: always 404."""
        return await stored(asker)

    return routes


def _prepare(who: Speaker, body: ChatRequest, owner: str) -> Asked:
    """Check a request and make its prompt. Raises ApiError 400."""
    _refuse_unknown_arts(body)
    chat = who.base.chat
    said = turns(body.messages)
    tools = toolset(body, chat)
    shown = tools.shown if tools else ()
    length = sum(len(turn.content) for turn in said) + (len(json.dumps(shown)) if shown else 0)
    refuse_endless(who, length, "messages")
    try:
        prompt = chat.prompt(said, shown)
    except ModelError as error:
        raise invalid(f"The messages do not fit the base's chat template: {error}", "messages") from None
    if tools and tools.forced:
        prompt += chat.scaffold(tools.form.opening)
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    most = room(who, len(prompt), asked, "messages")
    form = constraint(who, body.response_format, tools)
    generations = [
        Generation(tuple(prompt), draw, who.adapter, chat.end_ids, form, owner)
        for draw in draws(who, body, body.n or 1, most, (body.top_logprobs or 0) if body.logprobs else None)
    ]
    return Asked(who, body, tools, generations, chat.text(chat.scaffold(tools.form.opening)) if tools else "")


def _refuse_unknown_arts(body: ChatRequest) -> None:
    """400 for what would change the answer and cannot be done."""
    refused = {
        "audio": "answers are text",
        "web_search_options": "nothing here goes out to the web",
        "functions": "this older form is not read; send `tools`",
        "function_call": "this older form is not read; send `tool_choice`",
    }
    for field, reason in refused.items():
        if getattr(body, field) is not None:
            raise invalid(f"`{field}` is not supported: {reason}.", field)
    if body.modalities is not None and body.modalities != ["text"]:
        raise invalid('`modalities` can only be ["text"]: answers are text.', "modalities")
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("`top_logprobs` is only allowed when `logprobs` is true.", "top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise invalid("`stream_options` is only allowed when `stream` is true.", "stream_options")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise invalid(
            "`max_tokens` and `max_completion_tokens` are two names of one limit and differ; give one.", "max_tokens"
        )
