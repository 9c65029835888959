"""The envelope of lists, its cursors, and how a list's query is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Generic, Literal, Protocol, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel

from weft.serve.errors import invalid

T = TypeVar("T", bound=BaseModel)
MOST = 10_000
After = Annotated[
    str | None, Query(max_length=256, pattern=r"^[^\x00]*$", description="Id of the last item of the page before.")
]
Order = Annotated[Literal["asc", "desc"], Query(description="By time of creation.")]
_BRACKETED = re.compile(r"metadata\[(?P<key>[^\[\]]*)\]")


class _Identified(Protocol):
    id: str


class Listed(BaseModel, Generic[T]):
    """A page; the id of its last item is the next `after`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class Bounded(Listed[T], Generic[T]):
    """A page that also names its first and last id."""

    first_id: str | None
    last_id: str | None


def first(items: Sequence[_Identified]) -> str | None:
    """The id of a page's first item."""
    return items[0].id if items else None


def last(items: Sequence[_Identified]) -> str | None:
    """The id of a page's last item."""
    return items[-1].id if items else None


def metadata_query(request: Request) -> tuple[dict[str, str] | None, bool]:
    """The filter `metadata[key]=value` of a list, and whether `metadata=null` asks for items without any."""
    pairs: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        match = _BRACKETED.fullmatch(name)
        if match is not None:
            if match["key"] in pairs:
                raise invalid(f"metadata[{match['key'][:64]}] is asked for twice.", "metadata")
            pairs[match["key"]] = value
        elif name.startswith("metadata["):
            raise invalid("Metadata is asked for as metadata[key]=value, with one key.", "metadata")
        elif name == "metadata":
            if value != "null":
                raise invalid(
                    "`metadata` as a whole can only be asked for as `null`; use metadata[key]=value.", "metadata"
                )
            without = True
    if any("\0" in text for pair in pairs.items() for text in pair):
        raise invalid("metadata holds a NUL character, which no job's metadata has.", "metadata")
    if without and pairs:
        raise invalid("metadata=null asks for jobs without metadata; leave out metadata[…].", "metadata")
    if len(pairs) > 16:
        raise invalid("At most 16 pairs of metadata can be asked for.", "metadata")
    return pairs or None, without
