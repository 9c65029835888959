"""T1 and T2: the process killed at any moment, and every call to the disk failing, once and for good."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serve.store.scenes import adapter, finish, lying, new_job, put_file, start
from weft.errors import DamageError, NotThere, ResourceError
from weft.serve.leases import Leases
from weft.serve.store import Store

CALLS = ("write", "fsync", "replace", "unlink", "ftruncate", "mkdir", "open")


class Faults:
    """Makes the n-th call of the store's to the disk fail, and with `for_good` every later one too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.count = 0
        self.at: int | None = None
        self.for_good = False
        self._code = code
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **also: Any) -> Any:
            self.count += 1
            if self.at is not None and (self.count == self.at or (self.for_good and self.count > self.at)):
                raise OSError(self._code, os.strerror(self._code))
            return real(*given, **also)

        return call


def scene(store: Store, sure: dict[str, Any]) -> None:
    """Files, an upload, a job with a checkpoint and a model; `sure` tells what was acknowledged."""
    sure["file"] = put_file(store, b"kept" * 100)
    twin = put_file(store, b"gone")
    store.files.delete("ann", twin.id)
    sure["deleted"] = twin
    upload = store.uploads.create("ann", "b", "fine-tune", 4, "text")
    parts = [store.uploads.add_part("ann", upload.id, [piece]).id for piece in (b"ab", b"cd")]
    sure["upload"] = store.uploads.complete("ann", upload.id, parts)
    new_job(store)
    leases = Leases(store)
    job, attempt = start(leases)
    sure["checkpoint"] = leases.checkpoint(job.id, attempt, 1, {}, adapter(store, b"one"))
    sure["job"] = finish(store, leases, job, attempt, b"two", step=2)


def expect_kept(store: Store, sure: dict[str, Any]) -> None:
    """Everything acknowledged is there, whole; nothing half is."""
    assert store.check(deep=True) == ()
    assert lying(store.data / "tmp") == set()
    if "file" in sure:
        assert store.blobs.open(store.files.get("ann", sure["file"].id).sha256).read() == b"kept" * 100
    if "deleted" in sure:
        with pytest.raises(NotThere):
            store.files.get("ann", sure["deleted"].id)
    if "upload" in sure:
        assert store.blobs.open(store.files.get("ann", sure["upload"].file_id).sha256).read() == b"abcd"
    if "job" in sure:
        job = store.jobs.get("ann", sure["job"].id)
        model = store.models.get("ann", job.fine_tuned_model or "")
        store.blobs.verify_adapter(model.adapter)
        store.files.get("ann", job.result_files[0])


def sweep_points(quick: Path, monkeypatch: pytest.MonkeyPatch, every: int, turn: int = 0) -> int:
    """Fail at every `every`-th point, once and for good; how many failures there were. `turn`: which error where."""
    with monkeypatch.context() as patch:
        faults = Faults(patch, errno.EIO)
        with_store(quick / "count", lambda store: scene(store, {}), faults)
        total = faults.count
    tried = 0
    for for_good in (False, True):
        for point in range(1 + for_good, total + 1, every):
            sure: dict[str, Any] = {}
            folder = quick / f"{for_good}-{point}"
            with monkeypatch.context() as patch:
                faults = Faults(patch, errno.ENOSPC if (point + turn) % 2 else errno.EIO)
                with_store(folder, lambda store, sure=sure: scene(store, sure), faults, point, for_good)
            store = Store.open(folder)
            expect_kept(store, sure)
            store.close()
            tried += 1
    return tried


def with_store(
    folder: Path, play: Callable[[Store], None], faults: Faults, point: int | None = None, for_good: bool = False
) -> None:
    store = Store.open(folder)
    (store.data / "work" / "adapter").mkdir()
    faults.count, faults.at, faults.for_good = 0, point, for_good
    try:
        play(store)
    except (ResourceError, DamageError) as error:
        assert point is not None, error
    finally:
        faults.at = None
        store.close()


def test_any_call_to_the_disk_may_fail_and_nothing_acknowledged_is_lost(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T2, every seventeenth point."""
    assert sweep_points(quick, monkeypatch, every=17) >= 6


@pytest.mark.slow
def test_every_call_to_the_disk_may_fail_and_nothing_acknowledged_is_lost(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = sum(sweep_points(quick / str(turn), monkeypatch, every=1, turn=turn) for turn in (0, 1))
    print(f"T2: {tried} points")


def test_a_full_disk_is_named_with_the_bytes_needed_and_nothing_half_is_there(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(quick / "data")

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"the disk is full \(2,000,000 bytes are needed\)"):
        store.blobs.put([b"x"], 1 << 30, expected=2_000_000)
    assert lying(store.data / "tmp") == lying(store.data / "blobs") == set()
    store.close()


WRITER = """
import sys
from pathlib import Path
from tests.serve.store.scenes import put_file
from weft.serve.store import Store
store, number = Store.open(Path(sys.argv[1])), 0
while True:
    file = put_file(store, b"%s %d\\n" % (sys.argv[2].encode(), number) * 3000)
    print(file.id, file.sha256, flush=True)
    if number % 5 == 4:
        print("going", file.id, flush=True)
        store.files.delete("ann", file.id)
        print("gone", file.id, flush=True)
    number += 1
"""


def kill_writers(folder: Path, kills: int, seed: int) -> int:
    """Kill -9 a process that stores files, again and again; how many were acknowledged. All must be there."""
    chance = random.Random(seed)
    told: list[tuple[str, str]] = []
    for number in range(kills):
        command = [sys.executable, "-c", WRITER, str(folder), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            lines = [writer.stdout.readline()]
            time.sleep(chance.uniform(0.0, 0.3))
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines()
        told += [(first, second) for first, second in (line.split() for line in lines)]
    gone = {id for word, id in told if word == "gone"}
    unsure = {id for word, id in told if word == "going"} - gone
    kept = {id: sha256 for id, sha256 in told if id.startswith("file-")}
    store = Store.open(folder)
    assert store.check(deep=True) == () and lying(store.data / "tmp") == set()
    found = {file.id: file.sha256 for file in store.files.list("ann").items}
    store.close()
    assert {id: sha256 for id, sha256 in kept.items() if id not in gone | unsure}.items() <= found.items()
    assert not gone & set(found)
    return len(kept)


def test_kill_9_while_files_come_and_go_loses_nothing_acknowledged(quick: Path) -> None:
    """T1, one kill."""
    assert kill_writers(quick / "data", kills=1, seed=1) >= 1


@pytest.mark.slow
def test_kill_9_twenty_times_loses_nothing_acknowledged(tmp_path: Path) -> None:
    print(f"T1: {kill_writers(tmp_path / 'data', kills=20, seed=2)} files acknowledged")
