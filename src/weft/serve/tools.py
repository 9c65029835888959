"""Tools of a request: which the template is shown, and when a call is demanded.

A demanded call (`tool_choice` required or named) is generated under a schema: the template's opening is fed with the
prompt, then comes one object with a tool's name and its arguments.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from weft.errors import ModelError
from weft.models import tool_form
from weft.models.chat import Chat
from weft.models.tool_form import Tool as ShownTool
from weft.models.tool_form import ToolForm
from weft.serve.chat_messages import MOST_DEPTH, too_deep
from weft.serve.errors import invalid
from weft.serve.wire.chat import ChatRequest, Tool

_WORDS = ("none", "auto", "required")


@dataclass(frozen=True)
class Toolset:
    """The tools that an answer may or must call."""

    shown: tuple[ShownTool, ...]
    """As the template gets them."""
    form: ToolForm
    forced: bool
    """Whether the answer is one call."""
    several: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.shown)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of one call of any of the tools."""
        definitions: dict[str, Any] = {}
        calls = []
        for number, tool in enumerate(self.shown):
            home = f"#/$defs/tool{number}"
            definitions[f"tool{number}"] = _moved(tool["function"]["parameters"], home)
            name = {"const": tool["function"]["name"]}
            calls.append(
                {
                    "type": "object",
                    "properties": {self.form.name_key: name, self.form.arguments_key: {"$ref": home}},
                    "required": [self.form.name_key, self.form.arguments_key],
                    "additionalProperties": False,
                }
            )
        return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "$defs": definitions}


def toolset(body: ChatRequest, chat: Chat) -> Toolset | None:
    """The tools of a request; None where there are none, or none may be called. Raises ApiError 400."""
    shown = [_shown(tool, f"tools[{place}]") for place, tool in enumerate(body.tools or ())]
    names = [tool["function"]["name"] for tool in shown]
    doubled = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if doubled is not None:
        raise invalid(f"Two tools are called {doubled!r}; each needs a name of its own.", "tools")
    if not shown:
        if body.tool_choice not in (None, "none"):
            raise invalid("`tool_choice` is only allowed when `tools` are given.", "tool_choice")
        return None
    mode, chosen = _choice(body.tool_choice, names)
    if mode == "none":
        return None
    try:
        form = chat.tool_form
    except ModelError as error:
        raise invalid(f"`tools` cannot be used: {error}", "tools") from None
    kept = tuple(tool for tool in shown if tool["function"]["name"] in chosen)
    return Toolset(kept, form, mode == "required", body.parallel_tool_calls is not False)


def _shown(tool: Tool, where: str) -> ShownTool:
    if tool.type != "function" or tool.function is None:
        raise invalid(f"{where} is of type {tool.type[:40]!r}; functions are the only tools here.", where)
    shown = tool_form.shown({"function": dict(tool.function)})
    if too_deep(tool.function.parameters):
        raise invalid(f"{where} is nested deeper than {MOST_DEPTH} levels.", f"{where}.function.parameters")
    try:
        json.dumps(shown, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise invalid(f"{where} is not valid Unicode.", where) from None
    return shown


def _choice(choice: str | Mapping[str, Any] | None, names: Collection[str]) -> tuple[str, Collection[str]]:
    """`none`, `auto` or `required`, and the names that may be called."""
    match choice:
        case None:
            return "auto", names
        case str() if choice in _WORDS:
            return choice, names
        case {"type": "function", "function": {"name": str() as name}}:
            return "required", [_known(name, names)]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list() as some}}:
            allowed = [tool.get("function", {}).get("name") if isinstance(tool, dict) else None for tool in some]
            return mode, [_known(str(name), names) for name in allowed]
    raise invalid(
        "`tool_choice` must be 'none', 'auto', 'required', "
        '{"type": "function", "function": {"name": …}} or {"type": "allowed_tools", …}.',
        "tool_choice",
    )


def _known(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise invalid(f"`tool_choice` names {name[:64]!r}, which is not among the tools.", "tool_choice")
    return name


def _moved(schema: Any, home: str) -> Any:
    """A schema whose own references hold where it stands as a part of another."""
    if isinstance(schema, Mapping):
        return {
            key: home + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, home)
            for key, value in schema.items()
        }
    return [_moved(item, home) for item in schema] if isinstance(schema, list) else schema
