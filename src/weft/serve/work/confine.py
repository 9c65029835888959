"""What a worker may not do: outlive its parent, grow beyond its bounds, leave readable files, see the environment."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from weft.errors import RunError
from weft.serve.work.names import SCRATCH

ALLOWED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES", "WEFT_FLOAT32",
)  # fmt: skip
"""Variables of the server's environment that workers get. Keys, tokens and URLs have other names."""
MARK = "WEFT_WORKERS_OF"
"""The variable by which the processes of a server are found again after it died."""
_PR_SET_PDEATHSIG = 1
_NEAR = 0.9
"""Share of the memory that counts as all of it: what did not fit is not among what is held."""


def environment(folder: str, given: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the workers whose folder is `folder`: an allow-list and what keeps libraries offline."""
    kept = {name: given[name] for name in ALLOWED if name in given}
    return {
        **kept,
        MARK: folder,
        "HOME": f"{folder}/{SCRATCH}",  # caches of libraries, where they insist
        "TMPDIR": f"{folder}/{SCRATCH}",
        "WEFT_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # Pools of threads do not survive a fork: the nursery has none, each worker sets its own number.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends. Raises RunError where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise RunError("the process that started this one is gone")


def bound(memory_bytes: int | None, file_bytes: int | None) -> None:
    """Limits of the kernel for this process and those it starts. Too much memory is a MemoryError then, not a kill.

    Memory counts what is private and writable (RLIMIT_DATA), so that mapped files and reserved addresses do not.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with a reason
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def at_bound(memory_bytes: int | None, status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process holds nearly all the memory that it may: whatever goes wrong then, went wrong for that."""
    if memory_bytes is None or not status.is_file():
        return False
    held = next((line for line in status.read_text("ascii", "replace").splitlines() if line.startswith("VmData:")), "")
    return bool(held) and int(held.split()[1]) * 1024 > _NEAR * memory_bytes
