"""Checkpoints: a folder with tensors and one manifest, committed by a rename, checked by hash when read.

    step-00000200/            the folder appears whole or not at all
      tensors.safetensors     weights, optimizer and random states by name
      manifest.json           {"format": 1, "state": {...}, "files": {name: {"bytes", "sha256"}}, "sha256"}

No pickle anywhere. `state` is the caller's JSON (step, fingerprints, schedule position); the caller compares
fingerprints. Which one is gone on from where one of them is damaged: `checkpoint_choice.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.errors import DamageError

MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
NO_SIGNATURE = "-" * 64
_WAY_OUT = "Go on from an earlier checkpoint."
_NAME = re.compile(r"step-(\d+)")


class OtherFormat(DamageError):
    """Whole, and written by another version of weft: never passed over as if a disk had damaged it."""


def folder_name(step: int) -> str:
    """Name of the checkpoint of `step`; names sort as steps do."""
    return f"step-{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _signed(manifest: Mapping[str, Any]) -> str:
    """The manifest's text with the SHA-256 of itself in it, computed as if NO_SIGNATURE stood there."""
    text = json.dumps({**manifest, "sha256": NO_SIGNATURE}, indent=1, sort_keys=True) + "\n"
    return text.replace(NO_SIGNATURE, _digest(text, NO_SIGNATURE))


def _digest(text: str, signature: str) -> str:
    return hashlib.sha256(text.replace(signature, NO_SIGNATURE).encode()).hexdigest()


def write_at_once(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any kind into one safetensors file."""
    # Clones: tied weights share memory, which safetensors refuses.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    write: Callable[[Mapping[str, Tensor], Path], None] = write_at_once,
) -> None:
    """Write a checkpoint so that `folder` holds all of it or does not exist; one of that name is replaced.

    `write(tensors, path)` makes the file of the tensors, as `write_at_once` does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    part.mkdir()
    try:
        write(tensors, part / TENSORS)
        files = {TENSORS: {"bytes": (part / TENSORS).stat().st_size, "sha256": _sha256(part / TENSORS)}}
        (part / MANIFEST).write_text(_signed({"format": 1, "state": dict(state), "files": files}), "utf-8")
        _sync(part / TENSORS)
        _sync(part / MANIFEST)
        _sync(part)
        if folder.exists():
            old = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"
            os.rename(folder, old)
            os.rename(part, folder)
            shutil.rmtree(old)
        else:
            os.rename(part, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the caller's state; DamageError when anything differs from what was written."""
    try:
        text = (folder / MANIFEST).read_text("utf-8")
        manifest = json.loads(text)
        if _digest(text, manifest["sha256"]) != manifest["sha256"]:
            raise ValueError("its own SHA-256 is another")
        if manifest["format"] != 1:
            raise OtherFormat(
                f"{folder}: checkpoint format {manifest['format']!r}, expected 1. "
                "Another version of weft wrote it; use that one."
            )
        state, files = manifest["state"], manifest["files"]
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{folder}: no readable {MANIFEST} ({error}). {_WAY_OUT}") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise DamageError(f"{path}: missing, expected {size} bytes. {_WAY_OUT}")
        if path.stat().st_size != size or _sha256(path) != digest:
            raise DamageError(
                f"{path}: {path.stat().st_size} bytes whose SHA-256 is not the one of the manifest ({size} bytes, "
                f"{digest[:12]}…). The disk or a copy damaged it. {_WAY_OUT}"
            )
    try:
        return load_file(folder / TENSORS), state
    except (SafetensorError, OSError) as error:
        raise DamageError(f"{folder / TENSORS}: {error}. {_WAY_OUT}") from error


def named(root: Path) -> list[Path]:
    """Folders below `root` that are called like checkpoints, oldest first, whatever is in them."""
    found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)] if root.is_dir() else []
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint below `root`, or None, for who only looks. `load` still checks its bytes."""
    return next((path for path in reversed(named(root)) if (path / MANIFEST).is_file()), None)


def rotate(root: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` checkpoints; returns what was deleted.

    Call it after `save` returned: until then the older ones are all there is.
    """
    doomed = named(root)[: -max(1, keep)]
    for path in doomed:
        gone = root / f".{path.name}.{uuid.uuid4().hex[:8]}.old"  # renamed first: a kill here leaves no half checkpoint
        os.rename(path, gone)
        shutil.rmtree(gone)
    sweep(root)
    return doomed


def sweep(root: Path) -> None:
    """Remove what a kill left half written or half deleted."""
    for left in root.glob(".step-*"):
        if left.name.endswith((".part", ".old")):
            shutil.rmtree(left, ignore_errors=True)


# ---- states ----------------------------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators as JSON."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)  # type: ignore[misc]
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [bytes(s.tolist()).hex() for s in torch.cuda.get_rng_state_all()]
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo whatever happened to the generators since `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        there = state["cuda"][: torch.cuda.device_count()]  # a machine may have fewer devices than the one before
        torch.cuda.set_rng_state_all([torch.tensor(list(bytes.fromhex(s)), dtype=torch.uint8) for s in there])


class HasState(Protocol):
    """An optimizer: torch's, or `adamw.AdamW`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def optimizer_tensors(optimizer: HasState, prefix: str) -> dict[str, Tensor]:
    """The tensors of an optimizer's state as `prefix.INDEX.NAME`; INDEX counts parameters in order of the groups."""
    packed = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(value)
        for index, entries in packed.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: HasState, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` took; rates and other hyperparameters stay as the optimizer was made."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            index, entry = name[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
