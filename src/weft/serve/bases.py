"""The bases that the operator named: what each is called, and whether it can be loaded, as far as that is cheap to see.

`weft serve` looks before it listens: who mistyped one hears of it at the start, not by way of the first request.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from weft.errors import ModelError, UsageError
from weft.models.facts import inspect
from weft.models.load import here, locate, to_be_fetched
from weft.serve.config import ServeConfig


def called(bases: Sequence[str], alias: Mapping[str, str]) -> dict[str, str]:
    """Every public name of a base, aliases included, with the base behind it.

    Raises UsageError where two bases have one name, or an alias names a base that is neither served nor here.
    """
    names: dict[str, str] = {}
    for base in bases:
        name = public(base)
        if names.setdefault(name, base) != base:
            raise UsageError(
                f"bases {names[name]!r} and {base!r} would both be called {name!r}. "
                f"Give one of them another name with --alias NAME={base} and leave it out of --bases."
            )
    for name, target in alias.items():
        base = names.get(target, target)
        if base not in bases and here(base) is None:
            raise UsageError(
                f"--alias {name}={target}: {target!r} is no base of this server. {nearest(target, names)} "
                "Expected one of its names, a folder, or a hub name that --base names too."
            )
        names[name] = base
    return names


def public(base: str) -> str:
    """`weft-nano` → itself, `/models/Llama-3` → `Llama-3`, `owner/model` → `model`."""
    return Path(base).name or base


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names nearest to a wrong one, as a sentence."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    shown = near or sorted(known)[:8]
    return f"{'Did you mean' if near else 'Bases here:'} {', '.join(shown)}{'?' if near else '.'}"


def look(config: ServeConfig) -> None:
    """See that every base can be loaded, by its files but not its weights; what is only on the hub is left to its use.

    Raises UsageError naming what is wrong.
    """
    for base in dict.fromkeys(called(config.bases, config.alias).values()):
        if to_be_fetched(base):
            continue
        try:
            inspect(locate(base))
        except ModelError as error:
            raise UsageError(f"{error}\nMend it, or serve another base than {base!r}.") from None
