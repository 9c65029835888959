"""How much memory loading a model takes, and how much this process may still have: asked before anything is read.

The limit is the smallest of the machine's free memory and the limits of the control groups that the process lives in
(containers). Training needs more than loading; that estimate belongs to the method.
"""

from __future__ import annotations

from pathlib import Path

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
    known = [value for value in (_machine(root), *_groups(root)) if value is not None]
    return max(0, min(known)) if known else None


def require(needed: int, purpose: str, advice: str = "", *, root: Path = Path("/")) -> None:
    """Raise ResourceError where `needed` bytes are more than there are. `advice`: what else would help."""
    available = available_bytes(root)
    if available is not None and needed > available:
        raise ResourceError(
            f"{purpose} needs about {needed / 1e9:.2f} GB of memory, {available / 1e9:.2f} GB are free. "
            f"{advice or 'Choose'} a smaller base, close other programs, or raise the container's limit."
        )


def _machine(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(root: Path) -> list[int | None]:
    """What each control group above this process leaves: its limit less its use, where file cache does not count."""
    left: list[int | None] = []
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
            left.append(_left(group, limit, usage, cache))
            if group == root / mount:
                break
            group = group.parent
    return left


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    ceiling, used = _read(group / limit).strip(), _read(group / usage).strip()
    if not ceiling.isdigit() or not used.isdigit():
        return None
    lines = _read(group / "memory.stat").splitlines()
    reclaimable = next((int(line.split()[1]) for line in lines if line.startswith(cache)), 0)
    return int(ceiling) - int(used) + reclaimable


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
