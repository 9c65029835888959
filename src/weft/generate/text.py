"""Ids to text as they come: nothing but whole characters is told, and a stop string is seen across token borders.

What may still be the beginning of a stop string waits until it is decided. The stop string itself is never told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

WINDOW = 24
CONTEXT = 8
"""Once more than WINDOW ids are decoded together, only the last CONTEXT go on: the cost of a token stays the same."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Text:
    """The text of one reply.

    `decode`: ids → text, the same for the same ids. `stop`: strings that end the reply.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(text for text in stop if text)
        self._longest = max(map(len, self._stop), default=0)
        self._ids: list[int] = []
        self._told = 0  # characters of the window that were taken already
        self._waiting = ""
        self.stopped = False

    def push(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text that these ids settle, and whether a stop string was met; after that nothing more comes."""
        if self.stopped:
            return "", True
        return self._settled(self._taken(ids, last=False)), self.stopped

    def rest(self) -> str:
        """What was held back, at the end of the reply: an unfinished character, the beginning of a stop string."""
        if self.stopped:
            return ""
        settled = self._settled(self._taken((), last=True))
        if self.stopped:
            return settled
        waiting, self._waiting = self._waiting, ""
        return settled + waiting

    def _taken(self, ids: Sequence[int], *, last: bool) -> str:
        """New whole characters. A byte that is not yet a character decodes to one mark at the end, which waits."""
        self._ids += ids
        text = self._decode(self._ids)
        whole = len(text) if last or not text.endswith(_UNFINISHED) else len(text) - 1
        new, self._told = text[self._told : whole], max(whole, self._told)
        if whole == len(text) and len(self._ids) > WINDOW:
            tail = self._decode(self._ids[-CONTEXT:])
            if text.endswith(tail):
                self._ids, self._told = self._ids[-CONTEXT:], len(tail)
        return new

    def _settled(self, new: str) -> str:
        """`new` behind what waits, as far as no stop string can begin in it."""
        text = self._waiting + new
        found = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped, self._waiting = True, ""
            return text[:found]
        keep = next((n for n in range(min(self._longest - 1, len(text)), 0, -1) if self._begins(text[-n:])), 0)
        self._waiting = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stop)
