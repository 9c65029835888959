"""Messages of a request to turns of a conversation, each refusal naming the message.

`developer` is `system`. Texts alone are read: pictures, sound and files are refused. What a tool answered must belong
to a call that the assistant made before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from weft.records import Call, Message
from weft.serve.errors import invalid
from weft.serve.wire.chat import ChatMessage, ToolCall

MOST_DEPTH = 64
"""Nesting of schemas and arguments."""


def turns(messages: Sequence[ChatMessage]) -> list[Message]:
    """The conversation as the chat template's owner takes it. Raises ApiError 400."""
    calls: dict[str, Call] = {}
    said: list[Message] = []
    for place, message in enumerate(messages):
        said.append(_turn(message, f"messages[{place}]", calls))
    return said


def _turn(message: ChatMessage, where: str, calls: dict[str, Call]) -> Message:
    if message.function_call is not None or message.role == "function":
        raise invalid(
            f"{where} uses the older form of function calls, which is not read here. "
            "Send `tool_calls` and messages of role `tool`.",
            where,
        )
    if message.tool_calls is not None and message.role != "assistant":
        raise invalid(f"{where}: only the assistant's messages hold tool_calls.", f"{where}.tool_calls")
    content = _content(message, where)
    match message.role:
        case "tool":
            call = calls.get(message.tool_call_id or "")
            if call is None:
                raise invalid(
                    f"{where}: messages with role 'tool' must be a response to a preceding message with "
                    f"'tool_calls'; {message.tool_call_id!r} is the id of none.",
                    f"{where}.tool_call_id",
                )
            return Message("tool", content, answers=call)
        case "assistant" if message.tool_calls:
            made = tuple(_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(message.tool_calls))
            calls.update({call.id: call for call in made})
            return Message("assistant", content, calls=made)
        case "user" | "assistant":
            return Message(message.role, content)
        case _:
            return Message("system", content)


def _content(message: ChatMessage, where: str) -> str:
    content = message.content
    if content is None:
        if message.role == "assistant" and (message.tool_calls or message.refusal is not None):
            return _text(message.refusal or "", f"{where}.refusal")
        raise invalid(f"{where} has no content; expected a text.", f"{where}.content")
    if isinstance(content, str):
        return _text(content, f"{where}.content")
    texts = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        text = part.refusal if part.type == "refusal" and message.role == "assistant" else part.text
        if part.type not in ("text", "refusal") or text is None:
            raise invalid(
                f"{place} is a part of type {part.type[:40]!r}; this server's bases read text alone. "
                'Send {"type": "text", "text": "…"} or a plain string.',
                place,
            )
        texts.append(_text(text, place))
    return "".join(texts)


def _text(text: str, where: str) -> str:
    """The text, if it is one: half a surrogate pair cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{where} is not valid Unicode at character {error.start + 1}.", where) from None
    return text


def _call(call: ToolCall, where: str) -> Call:
    if call.type != "function" or call.function is None:
        raise invalid(f"{where} is of type {call.type[:40]!r}; functions are the only tools here.", where)
    arguments = call.function.arguments.strip() or "{}"
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or too_deep(value):
        raise invalid(
            f"{where}.function.arguments must be the JSON text of an object, nested at most {MOST_DEPTH} deep.",
            f"{where}.function.arguments",
        )
    for text in (call.id, call.function.name, json.dumps(value, ensure_ascii=False)):
        _text(text, where)
    return Call(call.function.name, arguments, call.id)


def too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than templates and schemas are taken."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True
