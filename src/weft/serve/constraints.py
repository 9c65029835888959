"""What an answer must look like, from `response_format` and `tool_choice` to a grammar of the base's tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.errors import UsageError
from weft.serve.chat_messages import MOST_DEPTH, too_deep
from weft.serve.errors import invalid
from weft.serve.tools import Toolset
from weft.serve.wire.chat import ResponseFormat

if TYPE_CHECKING:
    from weft.generate.constrain import Constraint
    from weft.serve.answering import Speaker

_OBJECT: dict[str, Any] = {"type": "object"}


def constraint(speaker: Speaker, format: ResponseFormat | None, tools: Toolset | None) -> Constraint | None:
    """The constraint of a request; None where its answer is free. Takes up to seconds. Raises ApiError 400."""
    if tools is not None and tools.forced:
        return _compiled(speaker, tools.schema(), "tools")
    if format is None or format.type == "text":
        return None
    if tools is not None:
        raise invalid(
            "`response_format` would forbid the calls that `tools` allow: set `tool_choice` to 'none' or 'required', "
            "or leave one of them out.",
            "response_format",
        )
    return _compiled(speaker, _schema(format), "response_format")


def _compiled(speaker: Speaker, schema: dict[str, Any], param: str) -> Constraint:
    try:
        return speaker.engine.grammars.json_schema(schema)
    except UsageError as error:
        raise invalid(f"`{param}`: {error}", param) from None


def _schema(format: ResponseFormat) -> dict[str, Any]:
    if format.type == "json_object":
        return _OBJECT
    if format.json_schema is None:
        raise invalid("`response_format` of type json_schema needs `json_schema`.", "response_format.json_schema")
    schema = format.json_schema.schema_
    if too_deep(schema):
        raise invalid(f"The schema is nested deeper than {MOST_DEPTH} levels.", "response_format.json_schema.schema")
    return _OBJECT if schema is None else schema
