"""How a base writes its calls of tools: read off its chat template, by showing it a call of a made-up tool.

    {"name": "f", "arguments": {…}}                                the object, whatever the two keys are called
    <tool_call>\n{…}\n</tool_call>                                 Hermes, Qwen: opening and closing round it
    [TOOL_CALLS] [{…}]                                             Mistral: a list

Forms that are not JSON objects (functions in the style of a programming language, channels) are not read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from weft.errors import ModelError
from weft.records import Call

Tool = Mapping[str, Any]
"""A tool as a JSON object: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
_NAME, _KEY, _VALUE = "weft_probe_tool", "weft_probe_key", "weft_probe_value"
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "A key."}},
            "required": [_KEY],
        },
    },
}
_QUESTION = {"role": "user", "content": "What is the weather?"}


class Render(Protocol):
    """`Template.render`."""

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], *, answering: bool = ..., tools: Sequence[Any] = ...
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How a call stands in an answer: `opening {"NAME_KEY": …, "ARGUMENTS_KEY": …} closing`."""

    opening: str
    """The template's words before the object, control tokens included."""
    closing: str
    """And those between the object and the end token."""
    name_key: str
    arguments_key: str
    as_text: bool
    """Whether the template wants the arguments of earlier calls as JSON text rather than as an object."""

    def shown(self, call: Call) -> dict[str, Any]:
        """An earlier call as the template expects it."""
        arguments = call.arguments if self.as_text else json.loads(call.arguments)
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def shown(tool: Tool) -> Tool:
    """A tool as every template is shown it: with all three of its parts, in one order, and nothing else.

    What a prompt says of a tool must not hang on who wrote it down: a row to learn from, or a request.
    """
    function = tool["function"]
    parameters = function.get("parameters")
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function.get("description") or "",
            "parameters": {"type": "object", "properties": {}} if parameters is None else parameters,
        },
    }


def find(render: Render, opening: str, ends: Collection[str]) -> ToolForm:
    """The form of one template. `opening`: what it puts before an answer beyond its prompt; `ends`: the end tokens.

    Raises ModelError where the template takes no tools, or writes calls in a way that is no JSON object.
    """
    try:
        takes_tools = _NAME in render([_QUESTION], tools=[_TOOL])
    except ModelError:
        takes_tools = False
    if not takes_tools:
        raise ModelError("the chat template of this base knows no tools. Use a base that was trained with tools.")
    for as_text in (False, True):
        try:
            form = _form(render, opening, ends, as_text)
        except ModelError:  # some templates take arguments only as text, others only as an object
            continue
        if form is not None:
            return form
    raise ModelError(
        "the chat template of this base writes calls of tools in a form that weft does not read "
        "(expected a JSON object with the name and the arguments)."
    )


def _form(render: Render, opening: str, ends: Collection[str], as_text: bool) -> ToolForm | None:
    arguments = {_KEY: _VALUE}
    given = json.dumps(arguments) if as_text else arguments
    call = {"id": "call00000", "type": "function", "function": {"name": _NAME, "arguments": given}}
    prompt = render([_QUESTION], answering=True, tools=[_TOOL])
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    whole = render([_QUESTION, answer], tools=[_TOOL])
    if not whole.startswith(prompt):
        return None
    text = whole[len(prompt) :].removeprefix(opening)
    decoder = json.JSONDecoder()
    for place in (place for place, letter in enumerate(text) if letter == "{"):
        try:
            found, end = decoder.raw_decode(text, place)
        except ValueError:
            continue
        names = [key for key, value in found.items() if value == _NAME]
        keys = [key for key, value in found.items() if value == arguments]
        if names and keys:
            after = text[end:]
            cut = min((after.index(token) for token in ends if token in after), default=len(after))
            return ToolForm(text[:place], after[:cut], names[0], keys[0], as_text)
    return None
