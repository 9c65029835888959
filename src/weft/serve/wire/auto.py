"""`'auto'` or a number within bounds: one sentence for what is neither, made of the bounds that the type declares."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Auto = Literal["auto"]
_KINDS = {int: "an integer", float: "a number"}
_LONGEST = 40


class OneSentence:
    """Marks `Auto | Annotated[int, Field(ge=…, le=…)]`: without it each alternative complains for itself."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        expected = _expected(source)

        def look(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError:
                told = {"found": _found(value), "expected": expected}
                raise PydanticCustomError(
                    "auto_or_number", "{found} is not allowed; expected {expected}", told
                ) from None

        return core_schema.no_info_wrap_validator_function(look, handler(source))


def _expected(source: Any) -> str:
    """`'auto' or an integer from 1 to 50`, `'auto' or a number above 0`."""
    _, number = get_args(source)
    kind, field = get_args(number)
    bounds = {
        name: getattr(part, name) for part in field.metadata for name in ("ge", "gt", "le") if hasattr(part, name)
    }
    if "ge" in bounds and "le" in bounds:
        within = f"from {bounds['ge']} to {bounds['le']}"
    else:
        words = {"ge": "at least", "gt": "above", "le": "at most"}
        within = ", ".join(f"{words[name]} {bounds[name]}" for name in words if name in bounds)
    return f"'auto' or {_KINDS[kind]} {within}"


def _found(value: Any) -> str:
    """The value as JSON has it, not endless; of a list or object its kind."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    said = json.dumps(value)
    return said if len(said) <= _LONGEST else said[:_LONGEST] + "…"
