"""Ids and model names.

An id is its prefix and 24 characters of base 62: nine tell the microsecond, fifteen (89 bits) are random. Ids of one
store only ever grow, whatever the clock does, so `ORDER BY id` is the order of creation and a cursor stays good after
the object it names was deleted. Names of models are those of the API: ft:BASE:ORGANISATION:SUFFIX:8CHARS.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable

from weft.errors import UsageError

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""In the order of their bytes, so that numbers of one length sort as text."""
_STAMP, _RANDOM = 9, 15
_ID = re.compile(r"[a-z]+[-_](?P<stamp>[0-9A-Za-z]{9})[0-9A-Za-z]{15}")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class Minter:
    """Makes ids that sort by age; `known` are ids that exist, which new ones must follow. Safe to use from threads."""

    def __init__(self, clock: Callable[[], float] = time.time, known: Iterable[str] = ()) -> None:
        self._clock = clock
        self._last = max((_stamp_of(id) for id in known), default=0)
        self._lock = threading.Lock()

    def id(self, prefix: str) -> str:
        """A new id; `prefix` with its dash or underscore, like `file-`."""
        with self._lock:
            self._last = max(self._last + 1, int(self._clock() * 1e6))
            stamp = self._last
        return prefix + _digits(stamp, _STAMP) + random_text(_RANDOM)


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    return text.startswith(prefix) and _ID.fullmatch(text) is not None


def random_text(length: int) -> str:
    """Base-62 characters from the system's source of randomness; each is worth 5.95 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def model_name(base: str, organisation: str, suffix: str | None) -> str:
    """A name that no model has: `ft:weft-nano:acme:my-suffix:7p4lURel`; without suffix two colons meet."""
    return f"ft:{_plain(base)}:{organisation}:{_plain(suffix or '')}:{random_text(8)}"


def checkpoint_name(base: str, organisation: str, suffix: str | None, step: int) -> str:
    """The same for an epoch's checkpoint, with its step behind it."""
    return f"{model_name(base, organisation, suffix)}:ckpt-step-{step}"


def checked_slug(text: str, what: str) -> str:
    """`text`, if it may stand in names and as an owner. Raises UsageError otherwise."""
    if not _SLUG.fullmatch(text):
        raise UsageError(
            f"{what} {text!r}: expected 1 to 64 lower-case letters, digits or dashes, no dash at an end, like 'acme'."
        )
    return text


def _plain(text: str) -> str:
    """Without what separates the parts of a name, and without what a path would be split at."""
    return re.sub(r"[^0-9A-Za-z._-]+", "-", text).strip("-")


def _digits(number: int, length: int) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        text = ALPHABET[digit] + text
    return text


def _stamp_of(id: str) -> int:
    match = _ID.fullmatch(id)
    number = 0
    for character in match["stamp"] if match else "":
        number = number * 62 + ALPHABET.index(character)
    return number
