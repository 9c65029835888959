"""The adapters in memory: loaded by a thread of their own on first use, let go by size and last use.

An adapter is known by its identity, the hash of its content. One in use is never let go; a load that takes long or
fails concerns nobody but who asked for it. How an adapter is applied is the business of who packs it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from weft.errors import WeftError
from weft.models.lora_files import ADAPTER_WEIGHTS, Adapter, Room, read_adapter
from weft.models.lora_layers import is_linear, sizes
from weft.models.token_rows import vocabulary

Packed = TypeVar("Packed")
LOADS = 4
"""Adapters loaded at once: a slow disk holds up that many requests' adapters, never the engine."""


@dataclass(frozen=True)
class Loaded(Generic[Packed]):
    """An adapter that is ready to answer."""

    identity: str
    packed: Packed
    size: int
    """Bytes of memory."""


@dataclass(frozen=True)
class Failed:
    """An adapter that cannot answer, and why."""

    reason: str


class Shelf(Generic[Packed]):
    """Adapters by identity, at most `limit` bytes of them beside those in use.

    `folder`: identity → where its two files lie. `pack`: makes of an adapter what the engine applies, with its size in
    bytes; it runs in a loading thread, as does `ready`, which is called whenever something changed. Thread-safe.
    """

    def __init__(
        self,
        room: Room,
        folder: Callable[[str], Path],
        pack: Callable[[str, Adapter], tuple[Packed, int]],
        limit: int,
        ready: Callable[[], None],
    ) -> None:
        self._room, self._folder, self._pack, self._limit, self._ready = room, folder, pack, limit, ready
        self._change = threading.Condition()
        self._held: OrderedDict[str, Loaded[Packed]] = OrderedDict()
        self._failed: dict[str, Failed] = {}
        self._loading: dict[str, int] = {}  # identity → bytes set aside, 0 until they are known
        self._in_use: frozenset[str] = frozenset()

    def get(self, identity: str, in_use: Collection[str]) -> Loaded[Packed] | Failed | None:
        """The adapter, or why it failed (told once: the next call tries again), or None while it is being loaded.

        Never waits. `in_use`: identities that must stay. The first call for an adapter starts its loading.
        """
        with self._change:
            self._in_use = frozenset(in_use)
            self._change.notify_all()
            if identity in self._held:
                self._held.move_to_end(identity)
                return self._held[identity]
            if identity in self._failed:
                return self._failed.pop(identity)
            if identity not in self._loading and len(self._loading) < LOADS:
                self._loading[identity] = 0
                threading.Thread(target=self._load, args=(identity,), name="weft-adapter", daemon=True).start()
        return None

    def counts(self) -> tuple[int, int]:
        """Adapters in memory, and their bytes."""
        with self._change:
            return len(self._held), sum(adapter.size for adapter in self._held.values())

    def _load(self, identity: str) -> None:
        found: Loaded[Packed] | Failed
        try:
            folder = self._folder(identity)
            self._make_room(identity, _stored(folder))
            packed, size = self._pack(identity, read_adapter(folder, self._room))
            found = Loaded(identity, packed, size)
        except WeftError as error:
            found = Failed(str(error))
        except Exception as error:  # the thread ends here; whoever waits must hear of it
            found = Failed(f"adapter {identity[:12]}… could not be loaded ({type(error).__name__}: {error}).")
        with self._change:
            del self._loading[identity]
            self._change.notify_all()
            if isinstance(found, Loaded):
                self._held[identity] = found
            else:
                self._failed[identity] = found
        self._ready()

    def _make_room(self, identity: str, wanted: int) -> None:
        """Let go what is not in use until `wanted` bytes fit. Waits while that is not enough, but never alone."""
        with self._change:
            while True:
                for other in [other for other in self._held if other not in self._in_use]:
                    if self._bytes() + wanted <= self._limit:
                        break
                    del self._held[other]
                alone = not self._held and not sum(self._loading.values())
                if alone or self._bytes() + wanted <= self._limit:
                    self._loading[identity] = wanted
                    return
                self._change.wait()

    def _bytes(self) -> int:
        return sum(adapter.size for adapter in self._held.values()) + sum(self._loading.values())


def _stored(folder: Path) -> int:
    try:
        return (folder / ADAPTER_WEIGHTS).stat().st_size
    except OSError:  # what is wrong with the folder is told by reading it
        return 0


def room_of(model: nn.Module) -> Room:
    """What `model`, without an adapter, has place for."""
    layers = {name: sizes(module) for name, module in model.named_modules() if is_linear(module)}
    tables = vocabulary(model)
    return Room(layers) if tables is None else Room(layers, tables.ending, tables.size, tables.tied)
