"""Rows into records, and pages of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Table, select

from weft.errors import NotThere
from weft.serve.records import Order, Page
from weft.serve.store.minting import is_id

T = TypeVar("T")


def record(cls: type[T], row: Row[Any]) -> T:
    """The record of a row: columns by the names of its fields."""
    values = row._mapping
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


def page(
    connection: Connection,
    table: Table,
    make: Callable[[Row[Any]], T],
    where: list[ColumnElement[bool]],
    *,
    after: str | None,
    limit: int,
    order: Order,
    cursor: tuple[str, str],
) -> Page[T]:
    """At most `limit` rows past the id `after`; `cursor` is (kind, prefix) of its ids.

    Ids sort by age, so the object that `after` names need not be there any more. Raises NotThere for anything else.
    """
    if after is not None:
        if not is_id(after, cursor[1]):
            raise NotThere(cursor[0], after)
        where = [*where, table.c.id > after if order == "asc" else table.c.id < after]
    by = table.c.id.asc() if order == "asc" else table.c.id.desc()
    rows = connection.execute(select(table).where(*where).order_by(by).limit(limit + 1)).all()
    return Page(tuple(make(row) for row in rows[:limit]), len(rows) > limit)
