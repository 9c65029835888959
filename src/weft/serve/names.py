"""What a `model` in a request means: an alias or base of this server, or a tuned model of the caller.

Only bases that the operator named are ever loaded: a request's text never becomes a path or a download.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import NotThere, UsageError
from weft.serve.config import ServeConfig

if TYPE_CHECKING:
    from weft.serve.store import Store

_HUB_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Answerer:
    """Who answers: a base as the operator named it, and the adapter on it (None: the base itself)."""

    base: str
    """What `models.load.load` takes: `weft-nano`, a folder, a hub name."""
    adapter: str | None
    """Content hash of the adapter."""


class Names:
    """The names of one server. A base is called by the last part of its own name, and by its aliases."""

    def __init__(self, bases: Sequence[str], alias: Mapping[str, str], store: Store) -> None:
        """Raises UsageError where two bases have one name, or an alias names a base that is not served."""
        self._store = store
        self._bases: dict[str, str] = {}
        for base in bases:
            name = _public(base)
            if self._bases.setdefault(name, base) != base:
                raise UsageError(
                    f"bases {self._bases[name]!r} and {base!r} would both be called {name!r}. "
                    f"Give one of them another name with --alias NAME={base} and leave it out of --bases."
                )
        self._names = dict(self._bases)
        # A hub name is also known in full; a folder's path is nobody's business.
        self._full = {base for base in bases if _HUB_NAME.fullmatch(base) and not Path(base).is_dir()}
        for name, base in alias.items():
            self._names[name] = self._names.get(base, base)

    @classmethod
    def of(cls, config: ServeConfig, store: Store) -> Names:
        """The names that a configuration gives."""
        return cls(config.bases, config.alias, store)

    def bases(self) -> dict[str, str]:
        """Every public name of a base, aliases included, with the base behind it."""
        return dict(self._names)

    def base(self, name: str) -> str | None:
        """The base behind a public name; None for a name that is none."""
        return name if name in self._full else self._names.get(name)

    def resolve(self, name: str, owner: str) -> Answerer:
        """Who answers to `name` for `owner`. Raises NotThere for a name that is unknown or another owner's."""
        base = self.base(name)
        if base is not None:
            return Answerer(base, None)
        if not name.startswith("ft:"):
            raise NotThere("model", name)
        model = self._store.models.get(owner, name)
        return Answerer(model.base, model.adapter)

    def shown(self, base: str) -> str:
        """The public name of a base; of one that is no longer served, the last part of its own name."""
        return next((name for name, behind in self._names.items() if behind == base), _public(base))

    def hint(self, name: str) -> str:
        """The known names nearest to a wrong one, as a sentence."""
        near = difflib.get_close_matches(name, self._names, n=3)
        shown = near or sorted(self._names)[:8]
        return f"{'Did you mean' if near else 'Bases here:'} {', '.join(shown)}{'?' if near else '.'}"


def _public(base: str) -> str:
    """`weft-nano` → itself, `/models/Llama-3` → `Llama-3`, `owner/model` → `model`."""
    return Path(base).name or base
