"""A run is a folder; stages meet in it, not in each other.

    settings.json      every setting with its origin; fingerprints of data and base
    events.jsonl       what happened, one line each, in order
    metrics.jsonl      one line per optimizer step or validation
    checkpoints/       state to resume from
    adapter/ or model/ what was learned
    scorecards/        ARM.SPLIT.json, row by row
    report.json, report.html

Every file appears whole or not at all: temporary name, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.errors import DamageError, ResourceError, UsageError

SETTINGS = "settings.json"


class Run:
    """One run folder. Make it with `Run.create` (new, or the same settings again) or `Run.open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Any = None

    @classmethod
    def create(cls, folder: Path, settings: dict[str, Any]) -> Run:
        """A new run, or the unfinished one with exactly these settings that lies there.

        Raises UsageError where the folder holds something else, ResourceError where it cannot be written.
        """
        run = cls(folder)
        if (folder / SETTINGS).exists():
            known = run.read_json(SETTINGS)
            differing = _differences(known, settings)
            if differing:
                raise UsageError(
                    f"{folder}: holds a run with other settings ({'; '.join(differing)}). "
                    "Name another folder with --out, or repeat the old settings to continue it."
                )
            return run
        if folder.exists() and (not folder.is_dir() or not all(map(_is_left_over, folder.iterdir()))):
            raise UsageError(f"{folder}: exists and is not a run folder. Name another with --out.")
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        run.write_json(SETTINGS, settings)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises UsageError where there is none."""
        if not (folder / SETTINGS).is_file():
            raise UsageError(f"{folder}: not a run folder (no {SETTINGS} in it). Runs lie under `runs/`.")
        return cls(folder)

    @property
    def settings(self) -> dict[str, Any]:
        return self.read_json(SETTINGS)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go when the process ends, however it ends."""
        with explained(self.folder):
            handle = (self.folder / ".lock").open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.folder}: another weft is working on this run. Wait for it to end.") from None
            _sweep(self.folder)
            yield

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def has(self, *parts: str) -> bool:
        return self.path(*parts).exists()

    def write_json(self, name: str, value: Any) -> None:
        write_whole(self.path(name), (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DamageError(f"{self.path(name)}: unreadable ({error}). Remove the run and repeat it.") from None

    def event(self, kind: str, **facts: Any) -> None:
        """Append one line to events.jsonl."""
        _append(self.path("events.jsonl"), {"time": round(time.time(), 3), "event": kind, **facts})

    def metric(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; `step` is expected among the values."""
        _append(self.path("metrics.jsonl"), values)

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path("metrics.jsonl")
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that a resume will repeat, so that none is doubled."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_whole(self.path("metrics.jsonl"), "".join(json.dumps(line) + "\n" for line in kept).encode())


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written; only the owner of the run may."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("scorecards/.*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    """Whether a kill in the middle of `write_whole` left this; it holds nothing."""
    return path.name.startswith(f".{SETTINGS}.") and path.suffix == ".tmp"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never meets half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name in one rename; what stood there before is removed after the new one stands."""
    with explained(final):
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """fsync a directory, so that a rename in it survives power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a ResourceError with a way out."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(path) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(f"{path}: no permission to write here. Name another folder with --out.") from None
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror or error}). Name another folder with --out."
        ) from None
    except Exception as error:
        # safetensors writes in Rust and has a kind of its own for the system's refusals.
        if type(error).__name__ == "SafetensorError" and f"os error {errno.ENOSPC}" in str(error):
            raise _disk_full(path) from None
        raise


def _disk_full(path: Path) -> ResourceError:
    return ResourceError(f"{path}: the disk is full. Free some space and repeat the command: it continues.")


def _append(path: Path, value: dict[str, Any]) -> None:
    with explained(path), path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(value, ensure_ascii=False) + "\n")


def _differences(known: Any, wanted: Any, prefix: str = "") -> list[str]:
    """`key: old -> new` for every leaf that differs; where data lie and where a value came from do not matter."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        return [
            line
            for key in {**known, **wanted}
            if key not in ("origin", "data")
            for line in _differences(known.get(key), wanted.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    return [] if known == wanted else [f"{prefix}: {known!r} -> {wanted!r}"]
