"""A row of a file → a Conversation. The layouts that are known without being told:

| layout                  | a row                                                                    |
|-------------------------|--------------------------------------------------------------------------|
| chat messages           | {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", …}]}, `tools` |
| ShareGPT conversations  | {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", …}]} |
| prompt / response       | {"prompt": "Hi", "response": "Hello"}, also with `completion`            |
| instruction / output    | {"instruction": "Translate", "input": "Hi", "output": "Salut"}           |
| question / answer, text / label, text / category, … | two texts; see PAIRS                         |

A row that fits none of them, or breaks a rule of its layout, raises RowFlaw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weft.data.formats import tools
from weft.data.formats.flaws import RowFlaw, kind_of
from weft.records import Conversation, Message, Role

PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("text", "label"),
    ("text", "category"),
    ("text", "intent"),
)
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
NO_LAYOUT_CURE = "Write chat `messages`, or name two fields with --input and --output."
PREFERENCE_KEYS = ("chosen", "rejected", "preferred_output", "non_preferred_output")


def columns_of(keys: Mapping[str, Any] | tuple[str, ...]) -> tuple[str, str] | None:
    """The pair of columns of a known two-text layout, as spelled in `keys`."""
    spelled = {key.strip().casefold(): key for key in reversed(tuple(keys))}
    return next(((spelled[a], spelled[b]) for a, b in PAIRS if a in spelled and b in spelled), None)


def by_columns(row: Mapping[str, Any], input: str, output: str) -> tuple[Message, ...]:
    """Two texts by their names; `instruction` takes `input` along, and `system` becomes a system message."""
    missing = [name for name in (input, output) if name not in row]
    if missing:
        raise RowFlaw(
            "column",
            f"has no {' and no '.join(map(repr, missing))}; it has {fields_of(row)}",
            "Give every row the same fields.",
        )
    question = _text(row, input)
    extra = row.get("input")
    if input.casefold() == "instruction" and isinstance(extra, str) and extra.strip():
        question = f"{question}\n\n{extra}"
    if row.get("history"):
        raise RowFlaw("history", "has earlier turns under `history`", "Write the row as chat `messages`.")
    turns = (Message("user", question), Message("assistant", _text(row, output)))
    system = row.get("system")
    if isinstance(system, str) and system.strip() and "system" not in (input, output):
        return (Message("system", system), *turns)
    return turns


def by_layout(row: Mapping[str, Any]) -> tuple[Conversation, str]:
    """The conversation of a row in a known layout, and the layout's name."""
    if any(key in row for key in PREFERENCE_KEYS):
        raise RowFlaw(
            "preference",
            "is a preference pair (a better and a worse answer); expected one ideal answer",
            "Learn from it with `weft train DATA --method dpo`, or keep the better answer as the assistant's message.",
        )
    if "messages" in row:
        return _chat(row), "chat messages"
    if "conversations" in row:
        return Conversation(_sharegpt(row)), "ShareGPT conversations"
    pair = columns_of(row)
    if pair is None:
        raise RowFlaw(
            "layout",
            f"fits no known layout; it has {fields_of(row)}",
            NO_LAYOUT_CURE,
        )
    return Conversation(by_columns(row, *pair)), f"{pair[0]} / {pair[1]}"


def fields_of(row: Mapping[str, Any]) -> str:
    """The names in a row, for a message."""
    names = [repr(key if len(key) <= 40 else key[:39] + "…") for key in list(row)[:12]]
    more = f" and {len(row) - 12} more" if len(row) > 12 else ""
    return f"the fields {', '.join(names)}{more}" if names else "no fields"


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        raise RowFlaw("missing-text", f"has null under {name!r}; expected a text", "Fill it in or remove the row.")
    if isinstance(value, str):
        return value
    # A label may be a number and an answer an object: both have one plain way to be text.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _chat(row: Mapping[str, Any]) -> Conversation:
    tools.refuse_older(row)
    toolbox = tools.Toolbox(row.get("tools"))
    parallel = row.get("parallel_tool_calls") if toolbox.text else None
    if parallel is not None and not isinstance(parallel, bool):
        found = f"has {kind_of(parallel)} under 'parallel_tool_calls'; expected true or false"
        raise RowFlaw("tools", found, "Write one of the two, or leave it out.")
    messages = [
        _turn(turn, f"messages[{index}]", toolbox) for index, turn in enumerate(listed(row["messages"], "messages"))
    ]
    return Conversation(_example(row, messages), tools=toolbox.text, parallel_tool_calls=parallel)


def _sharegpt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    for name in tools.KEYS:
        if row.get(name):
            raise tools.refused(f"has {name!r}")
    turns = listed(row["conversations"], "conversations")
    return _example(row, [_weighed(turn, f"conversations[{n}]", "from", "value") for n, turn in enumerate(turns)])


def listed(turns: Any, key: str) -> list[Any]:
    """What stands under `key`, if it is a list of something."""
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind_of(turns)
        raise RowFlaw("messages", f"has {found} under {key!r}; expected a list of messages", "Add the messages.")
    return turns


def _example(row: Mapping[str, Any], messages: list[Message]) -> tuple[Message, ...]:
    """The messages, after the row's `system`, if there is an answer in them to learn."""
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    if messages[-1].role != "assistant":
        raise RowFlaw(
            "last-message",
            f"ends with a message from the {messages[-1].role}, so there is no answer to learn",
            "End every row with the assistant's ideal answer.",
        )
    if all(message.weight == 0 for message in messages if message.role == "assistant"):
        raise RowFlaw(
            "weight",
            "gives every answer weight 0, so there is nothing to learn",
            "Set the weight of an answer to 1 or remove it.",
        )
    if not any(message.role == "user" for message in until_learned(messages)):
        raise RowFlaw("no-user", "has no message from the user", "Add the question that is answered.")
    return tuple(messages)


def until_learned(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages up to the last answer that is learned: what comes behind it can change nothing that is learned.

    The last of them is then the ideal answer, by which a model is judged too.
    """
    learned = [place for place, said in enumerate(messages) if said.role == "assistant" and said.weight != 0]
    return tuple(messages[: learned[-1] + 1])


def _turn(turn: Any, where: str, toolbox: tools.Toolbox) -> Message:
    """One turn of a chat row, which may call tools of the row or answer such a call."""
    if not isinstance(turn, dict):
        return as_message(turn, where, "role", "content")  # which refuses it
    tools.refuse_older(turn, where)
    if turn.get("role") == "tool":
        answers = toolbox.answered(turn.get("tool_call_id"), where)
        return Message("tool", _content(turn.get("content"), f"{where}.content"), answers=answers)
    calls = toolbox.called(turn["tool_calls"], f"{where}.tool_calls") if turn.get("tool_calls") else ()
    if not calls:
        return _weighed(turn, where, "role", "content")
    said = {key: value for key, value in turn.items() if key != "tool_calls"}
    if said.get("content") is None:
        said["content"] = ""
    message = _weighed(said, where, "role", "content")
    if message.role != "assistant":
        raise RowFlaw(
            "tool-call", f"has tool_calls at {where} ({message.role}); only the assistant calls tools", "Remove them."
        )
    return replace(message, calls=calls)


def _weighed(turn: Any, where: str, role_key: str, text_key: str) -> Message:
    """One turn with its `weight`, which means something where conversations are learned and nowhere else."""
    message = as_message(turn, where, role_key, text_key)
    weight = turn.get("weight")
    return message if weight is None else replace(message, weight=int(weight))


def as_message(turn: Any, where: str, role_key: str, text_key: str) -> Message:
    """One turn of a list; `where` is its place in the row, for the RowFlaw that it may raise."""
    if not isinstance(turn, dict):
        raise RowFlaw(
            "messages", f"has {kind_of(turn)} at {where}; expected an object", f"Write {role_key} and {text_key}."
        )
    for name in tools.KEYS:
        if turn.get(name):
            raise tools.refused(f"has {name!r} at {where}")
    name = turn.get(role_key)
    if name in tools.ROLES:
        raise tools.refused(f"has a message from {name!r} at {where}")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        found = f"{name!r}" if role_key in turn else "nothing"
        raise RowFlaw(
            "role",
            f"has {str(found)[:60]} as {where}.{role_key}; expected system, user or assistant",
            "Use one of the three roles.",
        )
    weight = turn.get("weight")
    if weight is not None and (role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)):
        raise RowFlaw(
            "weight",
            f"has the weight {str(weight)[:20]} at {where} ({role}); expected 0 or 1, on assistant messages only",
            "Remove the weight.",
        )
    return Message(role, _content(turn.get(text_key), f"{where}.{text_key}"))


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RowFlaw("content", f"has {kind_of(value)} as {where}; expected a text", "Write the text as a string.")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and "image" in kind:
            raise RowFlaw(
                "images", f"holds a picture in {where}; only text is learned", "Remove the row or the picture."
            )
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            message = f"has a part of type {str(kind)[:40]!r} in {where}; expected text parts"
            raise RowFlaw("content", message, 'Write {"type": "text", "text": "…"} or a plain string.')
        texts.append(part["text"])
    return "".join(texts)
