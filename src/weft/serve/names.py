"""What a `model` in a request means: an alias or base of this server, or a tuned model of the caller.

Only bases that the operator named are ever loaded: a request's text never becomes a path or a download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import NotThere
from weft.serve.bases import called, nearest, public
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
        """Raises UsageError where two bases have one name, or an alias names no base that there is (`bases.py`)."""
        self._store = store
        self._names = called(bases, alias)
        # A hub name is also known in full; a folder's path is nobody's business.
        self._full = {base for base in bases if _HUB_NAME.fullmatch(base) and not Path(base).is_dir()}

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
        return next((name for name, behind in self._names.items() if behind == base), public(base))

    def hint(self, name: str) -> str:
        """The known names nearest to a wrong one, as a sentence."""
        return nearest(name, self._names)
