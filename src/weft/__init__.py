"""weft: decide by measurement whether to fine-tune, fine-tune, and prove what changed.

The verbs of the command line as functions, each imported when it is first asked for:

    weft.read(path) · weft.check(dataset) · weft.split(examples) · weft.run(path) · weft.load(name)
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "check": "weft.data.check",
    "load": "weft.road.open",
    "read": "weft.data.read",
    "run": "weft.road.whole",
    "split": "weft.data.split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weft' has no attribute {name!r}; it offers {', '.join(_HOME)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
