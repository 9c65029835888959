"""What a contestant's process is held to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is bound on Linux alone")
def test_a_contestant_that_asks_for_more_than_is_free_is_refused(root: Path) -> None:
    script = (
        "from benchmarks.peers.worker import bound_memory\n"
        "rows = bytearray(2**28)\n"
        "bound_memory(1e-6)\n"
        "try:\n    bytearray(2**28)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout == "refused\n"
