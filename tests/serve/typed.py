"""The SDK's own types as the measure of every answer: no value is coerced, and no field escapes notice.

The SDK's strict mode lets pydantic turn `"7"` into 7 and says nothing of fields that it does not know. Clients made
here hold the JSON of every answer, page and chunk against the type that the SDK reads it as, before it does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, TypeAdapter, ValidationError


class Held:
    """What was found about the answers of some clients."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        """How many of each type came."""
        self.unknown: set[tuple[str, str]] = set()
        """(type, field): fields of ours that the SDK's type does not have."""
        self.refused: set[tuple[str, str, str]] = set()
        """(type, path, value): what the SDK's type does not allow."""

    def hold(self, kind: Any, data: object) -> None:
        """Judge one answer by the type that the SDK has for it."""
        self.answers[_name(kind)] += 1
        try:
            self._look(TypeAdapter(kind).validate_json(json.dumps(data), strict=True))
        except ValidationError as error:
            for problem in error.errors():
                path = ".".join(part for part in problem["loc"] if isinstance(part, str))
                self.refused.add((_name(kind), path, repr(problem["input"])))

    def _look(self, value: Any) -> None:
        if isinstance(value, BaseModel):
            self.unknown |= {(_name(type(value)), field) for field in value.model_extra or ()}
            value = [getattr(value, field) for field in type(value).model_fields]
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            self._look(item)


def _name(kind: Any) -> str:
    """`AsyncCursorPage[FileObject]` → `CursorPage`: both clients' pages are one."""
    return re.sub(r"^(Async|Sync)|\[.*", "", kind.__name__)


class _Holding:
    """Mixed into the SDK's clients. The method is the one place that all JSON goes through (SDK 3.54)."""

    held: Held

    def _process_response_data(self, *, data: object, cast_to: Any, response: Any) -> Any:
        self.held.hold(cast_to, data)
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)  # type: ignore[misc]


class HoldingOpenAI(_Holding, OpenAI):
    """The synchronous client."""


class HoldingAsyncOpenAI(_Holding, AsyncOpenAI):
    """The asynchronous one."""
