"""The waiting line: bounded, and fair between owners.

Every owner has a line of its own and the owners take turns. The bounds hold for all together; once they are met, an
owner may still add while it holds less than its share, so nobody can fill the line for everybody else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from weft.generate.requests import Full, Generation, Limits


class Waiting(Protocol):
    """Something that waits."""

    @property
    def generation(self) -> Generation: ...


Row = TypeVar("Row", bound=Waiting)
HARD = 2
"""The line never holds more than so many times its bounds, however many owners there are."""


class Line(Generic[Row]):
    """Rows that wait, by owner. Not thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owners: OrderedDict[str, dict[Row, None]] = OrderedDict()
        self.rows = self.tokens = 0

    def __iter__(self):
        return iter([row for rows in self._owners.values() for row in rows])

    def refuse(self, owner: str, tokens: int, retry_after: float, *, ahead: int = 0, own_ahead: int = 0) -> None:
        """Raises Full, with `retry_after` in it, where a request of so many prompt tokens would find no place.

        `ahead`: requests that are on their way into the line and count as if they stood in it, `own_ahead` of them
        this owner's.
        """
        own = self._owners.get(owner, {})
        shares = len(self._owners) + (0 if owner in self._owners else 1)
        own_tokens = sum(len(other.generation.prompt) for other in own)
        for what, held, mine, new, most in (
            ("requests", self.rows + ahead, len(own) + own_ahead, 1, self._limits.waiting),
            ("prompt tokens", self.tokens, own_tokens, tokens, self._limits.waiting_tokens),
        ):
            over_all, over_share = held + new > most, mine + new > most / shares
            if self.rows + ahead and ((over_all and over_share) or held + new > HARD * most):
                raise Full(
                    f"the waiting line is full: {held} {what}, {mine} of them yours, at most {most} together. "
                    f"Try again in {retry_after:.0f} s.",
                    retry_after,
                )

    def add(self, row: Row, retry_after: float) -> None:
        """Put `row` at the end of its owner's line. Raises Full as `refuse` does."""
        owner, tokens = row.generation.owner, len(row.generation.prompt)
        self.refuse(owner, tokens, retry_after)
        self._owners.setdefault(owner, {})[row] = None
        self.rows, self.tokens = self.rows + 1, self.tokens + tokens

    def remove(self, row: Row) -> None:
        """Take `row` out, where it waits."""
        own = self._owners.get(row.generation.owner)
        if own is None or row not in own:
            return
        del own[row]
        if not own:
            del self._owners[row.generation.owner]
        self.rows, self.tokens = self.rows - 1, self.tokens - len(row.generation.prompt)

    def next(self, ready: Callable[[Row], bool]) -> Row | None:
        """The next row that is `ready`, taken out; its owner goes to the end of the turn."""
        for owner, own in list(self._owners.items()):
            for row in own:
                if ready(row):
                    self._owners.move_to_end(owner)
                    self.remove(row)
                    return row
        return None
