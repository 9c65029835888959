"""The base of every request body: strict types, and fields that nobody knows are ignored with a word about it.

The word is the header `x-weft-warning` of the answer: clients written for the hosted service may send fields that came
after this contract, and should run; a misspelt field should still be seen.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

WARNING_HEADER = "x-weft-warning"


class Body(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(strict=True, extra="allow", use_attribute_docstrings=True, allow_inf_nan=False)

    def warnings(self) -> list[str]:
        """One sentence for the fields that were ignored."""
        unknown = ", ".join(_plain(name) for name in sorted(self.model_extra or ())[:8])
        return [f"ignored unknown fields: {unknown}"] if unknown else []


def warn(response: Response, *sentences: str) -> None:
    """Put `sentences` into the answer's warning header, beside those that stand there."""
    said = [response.headers[WARNING_HEADER]] if WARNING_HEADER in response.headers else []
    if sentences:
        response.headers[WARNING_HEADER] = "; ".join([*said, *(_plain(sentence) for sentence in sentences)])


def _plain(text: str) -> str:
    """What a header may hold: printable ASCII, short."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:400]


Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""Text that a database can hold: no NUL."""


def at_most(members: int) -> BeforeValidator:
    """Refuse an object with more members before any of them is looked at; a list's length is seen in time anyway."""

    def look(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > members:
            raise ValueError(f"has {len(value):,} members, expected at most {members:,}")
        return value

    return BeforeValidator(look)


MetadataKey = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\x00]*$")]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16), at_most(16)]
"""At most 16 pairs of text: keys up to 64 characters, values up to 512."""
