"""Why a row of a file is no example, in the words of a finding."""

from __future__ import annotations

from typing import Any


class RowFlaw(ValueError):
    """Why a row is no example: the `rule` it breaks, what was found, and the `cure`."""

    def __init__(self, rule: str, message: str, cure: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.cure = cure


def kind_of(value: Any) -> str:
    """What JSON calls a value, for a message: `a list`, `an object`, `null`."""
    names = {type(None): "null", bool: "a boolean", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")
