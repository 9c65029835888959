"""One JSON value, strictly: no NaN, no duplicate keys, bounded depth and numbers, text that can be written again.

Uses the scanner of the standard library; what it lets pass and we do not is refused here with a rule's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64
MAX_NUMBER_CHARACTERS = 100

_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BRACKET_OR_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


class JsonFlaw(ValueError):
    """Why a text is not an acceptable JSON value: the `rule` it breaks, what was found, and the `cure`."""

    def __init__(self, rule: str, message: str, cure: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.cure = cure


def parse(text: str) -> Any:
    """The value of a JSON text. Raises JsonFlaw."""
    if text.count("[") + text.count("{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise JsonFlaw(
            "json-depth",
            f"is nested {depth} deep; at most {MAX_DEPTH} is read",
            "Flatten the row, or write it as text.",
        )
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _syntax(text, error) from None
    if _SUSPECT_ESCAPE.search(text):
        _refuse_unwritable(value)
    return value


def _syntax(text: str, error: json.JSONDecodeError) -> JsonFlaw:
    near = text[max(0, error.pos - 12) : error.pos + 12]
    cure = "Write each row with a JSON library (Python: json.dumps)."
    if error.msg == "Extra data" and "\r" in text:
        cure = "The rows seem to be separated by \\r alone; separate them by \\n."
    elif error.msg == "Extra data":
        cure = "Put one row on each line, with nothing after it."
    elif "'" in near and '"' not in near:
        cure = "JSON wants double quotes; this looks like a Python dict. Write it with json.dumps."
    elif error.pos >= len(text.rstrip()) - 1 and error.msg != "Expecting value":
        cure = "The row seems to be cut off; write it again in full."
    return JsonFlaw("json", f"is not valid JSON at column {error.colno}: {error.msg}, near {near!r}", cure)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonFlaw("json-duplicate-key", f"has the key {twice!r} twice in one object", "Keep one of the two.")
    return value


def _constant(name: str) -> Any:
    raise JsonFlaw("json-constant", f"holds {name}, which JSON does not know", "Write null, a number or a string.")


def _number(text: str, convert: type[int] | type[float]) -> Any:
    if len(text) > MAX_NUMBER_CHARACTERS:
        message = f"holds a number of {len(text):,} characters; at most {MAX_NUMBER_CHARACTERS} are read"
        raise JsonFlaw("json-number", message, "Write it as a string, in quotes.")
    value = convert(text)
    if value in (float("inf"), float("-inf")):
        raise JsonFlaw(
            "json-number", f"holds the number {text}, too large to be kept", "Write it as a string, in quotes."
        )
    return value


def _integer(text: str) -> Any:
    return _number(text, int)


def _float(text: str) -> Any:
    return _number(text, float)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float, strict=True
)


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _BRACKET_OR_STRING.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest


def _refuse_unwritable(value: Any) -> None:
    for text in _strings(value):
        if "\0" in text:
            raise JsonFlaw("nul", "holds a NUL character (\\u0000) in a text", "Remove it.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            found = f"\\u{ord(text[error.start]):04x}"
            message = f"holds half of a surrogate pair ({found}), which is no character"
            raise JsonFlaw("json-surrogate", message, "Write the character itself, or both halves.") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
