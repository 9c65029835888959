"""The machine in general words, so that a figure can be read elsewhere. No host name, no path, no user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

_MATRIX_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512_BF16", "amx_tile": "AMX"}
QUIET_LOAD = 0.5
"""Load average up to which the machine counts as quiet before a measurement."""


def describe() -> dict[str, Any]:
    """Cores that this process may use, memory, what its vector units know, versions, threads asked for."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "processor": platform.machine(),
        "vector_units": _vector_units(),
        "threads_asked_for": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def in_words(machine: dict[str, Any]) -> str:
    """One sentence, with a warning where other work was going on."""
    threads = machine["threads_asked_for"]
    words = [
        f"{machine['cores']} {'core' if machine['cores'] == 1 else 'cores'}",
        f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory",
        f"{machine['processor']}{''.join(f', {unit}' for unit in machine['vector_units'])}",
        f"Python {machine['python']}, torch {machine['torch']}, transformers {machine['transformers']}",
        f"OMP_NUM_THREADS={threads}" if threads else "threads as torch chooses",
    ]
    busy = machine["load_before"] > QUIET_LOAD
    load = f" **Other work was running** (load {machine['load_before']} before the start)." if busy else ""
    return "; ".join(words) + "." + load


def _vector_units() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set[str]())
    return [name for flag, name in _MATRIX_FLAGS.items() if flag in flags]
