"""How much a JSON body is made of, counted while it arrives: what costs the reader time is values, not bytes.

Reading JSON and checking its shape is work of C code that lets nobody else in, on the event loop or beside it in a
thread. 16 MB of text take it 20 ms, 16 MB of empty objects seconds and gigabytes. So a body ends with its first object
too many, before any of it is read.

Counted is what stands outside strings. Whether the body is JSON is else for the parser to say.
"""

from __future__ import annotations

from weft.serve.errors import ApiError, body_too_large, invalid

MOST_NESTED = 50_000
"""Objects, lists and keys of objects in a body: 2,048 messages of several parts and 128 tools stay below."""
MOST_VALUES = 1_000_000
"""Members of lists and objects: token ids of prompts are many and cheap."""

MOST_DEEP = 200
"""Objects and lists inside each other; what is deeper cannot be written out again."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{[]}"))


class Structure:
    """The structure of one body so far."""

    def __init__(self) -> None:
        self._nested = self._values = self._depth = 0
        self._in_string = False
        self._odd = b""
        """The `\\` that the last piece ended with and that belongs to the next one's first character."""

    def take(self, piece: bytes) -> None:
        """Count what a further piece brings. Raises ApiError 413 for too much, 400 for no JSON."""
        if b"\0" in piece:  # as UTF-16 has them; in UTF-8 no JSON holds one, and a `"` is always a quotation mark
            raise _no_json("it is not UTF-8")
        plain = (self._odd + piece).replace(b"\\\\", b"")
        self._odd = plain[-1:] if plain.endswith(b"\\") else b""
        parts = plain.removesuffix(self._odd).replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._nested += outside.count(b"{") + outside.count(b"[") + outside.count(b":")
        self._values += outside.count(b",")
        if self._nested > MOST_NESTED:
            raise _too_much(f"{MOST_NESTED:,} objects, lists and keys")
        if self._values > MOST_VALUES:
            raise _too_much(f"{MOST_VALUES:,} values")
        for bracket in outside.translate(None, _NOT_BRACKETS):
            self._depth += 1 if bracket in b"{[" else -1
            if self._depth > MOST_DEEP:
                raise _no_json(f"it is nested deeper than {MOST_DEEP}")
            if self._depth < 0:
                raise _no_json("it closes what was not opened")


def _no_json(why: str) -> ApiError:
    return invalid(f"We could not parse the JSON body of your request: {why}.", None, "invalid_json")


def _too_much(most: str) -> ApiError:
    return body_too_large(f"The request has more than the {most} that are taken here. Send it as several.")
