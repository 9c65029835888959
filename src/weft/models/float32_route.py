"""WEFT_FLOAT32: which of the CPU's routes float32 products take.

A variable of the environment, since a route is that of the whole process. Read without torch, so that a wrong word is
met before anything is loaded.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from weft.errors import UsageError

CHOICE = "WEFT_FLOAT32"
Route = Literal["auto", "onednn", "default"]


def asked() -> Route:
    """What the variable says; `auto` where it is not there. Raises UsageError where it names no route."""
    wanted = os.environ.get(CHOICE) or "auto"
    for route in get_args(Route):
        if route == wanted:
            return route
    raise UsageError(f"{CHOICE} is {wanted!r}, expected one of {', '.join(get_args(Route))}.")
