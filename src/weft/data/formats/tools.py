"""Tools in a chat row: which the assistant may call, which it calls, and which call a tool's message answers.

    "tools": [{"type": "function", "function": {"name": "weather", "description": …, "parameters": {…}}}]
    {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function":
        {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]}
    {"role": "tool", "tool_call_id": "call_1", "content": "25 degrees"}

The rules are those of the fine-tuning API: a called name is among the tools, its arguments are a string that holds a
JSON object, and a tool's message answers a call made before it. What breaks one raises RowFlaw.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from weft.data.formats import strict_json
from weft.data.formats.flaws import RowFlaw, kind_of
from weft.records import Call

KEYS = ("tools", "tool_calls", "functions", "function_call")
OLDER = ("functions", "function_call")
ROLES = ("tool", "function", "function_call", "observation", "function_response")
"""How layouts call who answers a call, or makes one."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AS_TOOL = 'Write each as {"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}.'
_AS_CALL = 'Write each as {"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}.'


def refused(message: str) -> RowFlaw:
    """The refusal of tools in a layout, or in a preference pair, that has no place for them."""
    return RowFlaw(
        "tools",
        f"{message}; calls of tools are learned from chat `messages` with an ideal answer alone",
        "Write the row as `messages` with `tools` and `tool_calls`, or remove it.",
    )


def refuse_older(holder: Mapping[str, Any], where: str = "") -> None:
    """Refuse the deprecated form of tools in a row, or in a message at `where`."""
    for name in OLDER:
        if holder.get(name):
            raise _older(f"has {name!r}{where and f' at {where}'}")
    if holder.get("role") == "function":
        raise _older(f"has a message from 'function' at {where}")


def _older(message: str) -> RowFlaw:
    return RowFlaw(
        "tools",
        f"{message}, the older form of tools, which is not read",
        "Use `tools`, `tool_calls` and messages of the role `tool`.",
    )


class Toolbox:
    """The tools of one row, and the calls that its messages have made so far."""

    text: str
    """The row's list of tools as JSON; empty where there are none."""

    def __init__(self, tools: Any) -> None:
        if tools and not isinstance(tools, list):
            raise RowFlaw("tools", f"has {kind_of(tools)} under 'tools'; expected a list of tools", _AS_TOOL)
        self._names: list[str] = []
        for number, tool in enumerate(tools or ()):
            name = _name_of(tool, f"tools[{number}]")
            if name in self._names:
                raise RowFlaw("tools", f"has two tools called {name!r}", "Give each tool a name of its own.")
            self._names.append(name)
        self.text = json.dumps(tools, ensure_ascii=False) if tools else ""
        self._calls: dict[str, Call] = {}

    def called(self, calls: Any, where: str) -> tuple[Call, ...]:
        """The calls of a message of the assistant; `where` they stand in the row."""
        if not isinstance(calls, list):
            raise _flaw(f"has {kind_of(calls)} at {where}; expected a list of calls", _AS_CALL)
        made = tuple(self._call(call, f"{where}[{number}]") for number, call in enumerate(calls))
        ids = [call.id for call in made]
        if (twice := next((id_ for place, id_ in enumerate(ids) if id_ in ids[:place]), None)) is not None:
            raise _flaw(f"has two calls with the id {twice[:40]!r} at {where}", "Give each call an id of its own.")
        # A later message may use an id again, as rows written by hand do: an answer belongs to the call before it.
        self._calls |= {call.id: call for call in made}
        return made

    def answered(self, id_: Any, where: str) -> Call:
        """The call that a tool's message at `where` answers."""
        if not isinstance(id_, str) or id_ not in self._calls:
            known = f"the calls before it are {_listed(tuple(self._calls))}" if self._calls else "no call is before it"
            found = "no 'tool_call_id'" if id_ is None else f"the 'tool_call_id' {str(id_)[:40]!r}"
            raise RowFlaw(
                "tool-message",
                f"has {found} at {where}; {known}",
                "Give it the id of the call that it answers, behind the assistant's message with that call.",
            )
        return self._calls[id_]

    def _call(self, call: Any, where: str) -> Call:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise _flaw(f"has no call of a function at {where}", _AS_CALL)
        id_, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        if not isinstance(id_, str) or not id_:
            found = "an empty text" if id_ == "" else kind_of(id_) if "id" in call else "nothing"
            raise _flaw(f"has {found} as {where}.id; expected a text", "Give each call an id, which its answer names.")
        if name not in self._names:
            offered = f"the row's tools are {_listed(self._names)}" if self._names else "the row has no 'tools'"
            raise _flaw(
                f"calls {str(name)[:64]!r} at {where}; {offered}",
                "Correct the name, or add the tool to the row's `tools`.",
            )
        return Call(name, _object(arguments, f"{where}.function.arguments"), id_)


def _name_of(tool: Any, where: str) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise RowFlaw("tools", f"has no function at {where}; functions are the only tools that are learned", _AS_TOOL)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found = repr(name[:64]) if isinstance(name, str) else kind_of(name) if "name" in function else "nothing"
        raise RowFlaw(
            "tools",
            f"has {found} as {where}.function.name; expected 1 to 64 letters, digits, _ or -",
            "Name the tool so.",
        )
    for key, kind in (("description", str), ("parameters", dict)):
        value = function.get(key)
        if value is not None and not isinstance(value, kind):
            wanted = "a text" if kind is str else "a JSON schema, which is an object"
            raise RowFlaw("tools", f"has {kind_of(value)} as {where}.function.{key}; expected {wanted}", "Write it so.")
    return name


def _object(arguments: Any, where: str) -> str:
    """The arguments as they are, if they are the JSON text of an object."""
    cure = 'Write the arguments as JSON text, such as "{\\"city\\": \\"Rome\\"}"; without any: "{}".'
    if not isinstance(arguments, str):
        raise _flaw(f"has {kind_of(arguments)} as {where}; expected a string that holds JSON", cure)
    try:
        value = strict_json.parse(arguments)
    except strict_json.JsonFlaw as flaw:
        raise _flaw(f"has {arguments[:40]!r} as {where}, which {flaw.message}", cure) from None
    if not isinstance(value, dict):
        raise _flaw(f"has {kind_of(value)} in the string {where}; expected an object", cure)
    return arguments


def _flaw(message: str, cure: str) -> RowFlaw:
    return RowFlaw("tool-call", message, cure)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(repr(name[:64]) for name in names[:8]) + more
