"""The shelf of adapters: loaded apart, let go by last use, never while in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generate.conftest import PATIENCE
from weft.errors import UsageError
from weft.generate.adapters import Failed, Loaded, Shelf, room_of
from weft.models.load import Base
from weft.models.lora_files import Adapter


class Shelves:
    """A shelf whose adapters all weigh `size` bytes."""

    def __init__(self, base: Base, folder: Callable[[str], Path], limit: int, size: int = 0) -> None:
        self.changes = threading.Semaphore(0)
        self.size = size
        self.shelf: Shelf[str] = Shelf(room_of(base.model), folder, self.pack, limit, self.changes.release)

    def pack(self, identity: str, adapter: Adapter) -> tuple[str, int]:
        return f"packed {identity}", self.size

    def got(self, identity: str, in_use: set[str] | None = None) -> Loaded[str] | Failed:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := self.shelf.get(identity, in_use or set()):
                return found
            self.changes.acquire(timeout=0.2)
        raise AssertionError("never loaded")


def test_an_adapter_is_loaded_once_and_then_at_hand(base: Base, adapters: Path) -> None:
    asked: list[str] = []
    shelf = Shelves(base, lambda identity: asked.append(identity) or adapters / identity, 10**9)  # type: ignore[func-returns-value]
    assert shelf.shelf.get("plain", ()) is None
    found = shelf.got("plain")
    assert isinstance(found, Loaded) and found.packed == "packed plain"
    assert shelf.shelf.get("plain", ()) is found and asked == ["plain"]


def test_what_was_used_longest_ago_goes_first(base: Base, adapters: Path) -> None:
    size = max(file.stat().st_size for file in adapters.glob("*/adapter_model.safetensors"))
    shelf = Shelves(base, lambda identity: adapters / identity, 2 * size, size)
    shelf.got("plain"), shelf.got("wide"), shelf.got("plain")
    shelf.got("dora")
    assert set(shelf.shelf._held) == {"plain", "dora"} and shelf.shelf.counts() == (2, 2 * size)


def test_one_in_use_is_never_let_go(base: Base, adapters: Path) -> None:
    size = max(file.stat().st_size for file in adapters.glob("*/adapter_model.safetensors"))
    shelf = Shelves(base, lambda identity: adapters / identity, size, size)
    shelf.got("plain")
    for _ in range(5):
        assert shelf.shelf.get("wide", {"plain", "wide"}) is None
        time.sleep(0.01)
    assert set(shelf.shelf._held) == {"plain"}
    assert isinstance(shelf.got("wide", {"wide"}), Loaded) and set(shelf.shelf._held) == {"wide"}


def test_an_adapter_larger_than_the_shelf_is_loaded_alone(base: Base, adapters: Path) -> None:
    assert isinstance(Shelves(base, lambda identity: adapters / identity, 1, 100).got("plain"), Loaded)


def test_a_slow_load_holds_up_nobody_else(base: Base, adapters: Path) -> None:
    gate = threading.Event()

    def folder(identity: str) -> Path:
        if identity == "wide":
            gate.wait(PATIENCE)
        return adapters / identity

    shelf = Shelves(base, folder, 10**9)
    assert shelf.shelf.get("wide", ()) is None
    assert isinstance(shelf.got("plain"), Loaded)
    assert shelf.shelf.get("wide", ()) is None
    gate.set()
    assert isinstance(shelf.got("wide"), Loaded)


def test_a_failure_is_told_in_words_and_the_next_call_tries_again(base: Base, adapters: Path) -> None:
    def refuse(identity: str) -> Path:
        raise UsageError("this adapter was deleted.")

    def stumble(identity: str) -> Path:
        raise RuntimeError("disk on fire")

    assert Shelves(base, refuse, 10**9).got("plain") == Failed("this adapter was deleted.")
    found: Any = Shelves(base, stumble, 10**9).got("plain")
    assert found.reason == "adapter plain… could not be loaded (RuntimeError: disk on fire)."
    tries = iter([adapters / "nothing there", adapters / "plain"])
    shelf = Shelves(base, lambda identity: next(tries), 10**9)
    first: Any = shelf.got("plain")
    assert "not an adapter" in first.reason and isinstance(shelf.got("plain"), Loaded)


@pytest.mark.parametrize("name", ["plain", "rows"])
def test_the_room_of_a_base_takes_its_adapters(base: Base, adapters: Path, name: str) -> None:
    from weft.models.lora_files import read_adapter

    assert read_adapter(adapters / name, room_of(base.model)).layers
