"""How much memory loading a model takes, and how much this process may still have: asked before anything is read.

The limit is the smallest of the machine's free memory and the limits of the control groups that the process lives in
(containers). Training needs more than loading; that estimate belongs to the method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.errors import ResourceError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per parameter by the name of the number format."""

# An allowance for buffers and the interpreter, generous for small models and irrelevant for large ones.
MARGIN_BYTES = 64 << 20


def loading_bytes(parameters: int, dtype: str, largest_tensor: int = 0) -> int:
    """Peak bytes that loading takes: the weights, one tensor in flight, and a margin.

    `largest_tensor` in elements. The file itself is mapped and does not count: its pages can be given back.
    """
    return parameters * BYTES[dtype] + largest_tensor * 4 + MARGIN_BYTES


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take, or None where the system does not say. `root` is where /proc and /sys hang."""
    groups = (_left(*group) for group in _groups(root))
    known = [value for value in (_meminfo(root, "MemAvailable"), *groups) if value is not None]
    return max(0, min(known)) if known else None


def free_bytes(device: Any) -> int | None:
    """Bytes that tensors on this torch device may still take, or None where the system does not say."""
    if device.type != "cuda":
        return available_bytes(Path("/"))  # Path: tests put a smaller machine in its place
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def most_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process could have if nothing else ran: the machine's, or what its control groups allow."""
    known = [_meminfo(root, "MemTotal"), *(_number(group / limit) for group, limit, _, _ in _groups(root))]
    return min((value for value in known if value is not None), default=None)


def require(needed: int, purpose: str, advice: str = "", *, root: Path = Path("/")) -> None:
    """Raise ResourceError where `needed` bytes are more than there are. `advice`: what else would help."""
    available = available_bytes(root)
    if available is not None and needed > available:
        raise ResourceError(
            f"{purpose} needs about {needed / 1e9:.2f} GB of memory, {available / 1e9:.2f} GB are free. "
            f"{advice or 'Choose'} a smaller base, close other programs, or raise the container's limit."
        )


def _meminfo(root: Path, name: str) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(root: Path) -> list[tuple[Path, str, str, str]]:
    """The control groups above this process: each one's folder, and what its limit, use and file cache are called."""
    found: list[tuple[Path, str, str, str]] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "
        elif "memory" in controllers.split(","):
            mount, cache = "sys/fs/cgroup/memory", "total_inactive_file "
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / mount / path.strip("/")
        while True:
            found.append((group, limit, usage, cache))
            if group == root / mount:
                break
            group = group.parent
    return found


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """A group's limit less its use, where file cache does not count."""
    ceiling, used = _number(group / limit), _number(group / usage)
    if ceiling is None or used is None:
        return None
    lines = _read(group / "memory.stat").splitlines()
    reclaimable = next((int(line.split()[1]) for line in lines if line.startswith(cache)), 0)
    return ceiling - used + reclaimable


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
