"""Processes of an earlier server: found by the mark in their environment, ended before anything is started anew."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from weft.errors import RunError
from weft.serve.work.confine import MARK

_PATIENCE_SECONDS = 10.0


def leftovers(folder: Path, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of this user's workers of `folder`, but for this process. Zombies are none: they do nothing."""
    wanted = f"{MARK}={folder}".encode()
    found = []
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def end_leftovers(folder: Path) -> int:
    """Kill them and wait until they are gone; how many there were. Raises RunError where one does not go."""
    killed: set[int] = set()
    until = time.monotonic() + _PATIENCE_SECONDS
    while found := leftovers(folder):
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed.update(found)
        if time.monotonic() > until:
            raise RunError(
                f"{folder}: workers of an earlier server do not end (process {', '.join(map(str, found))}). "
                "End them by hand, then start the server again."
            )
        time.sleep(0.02)
    return len(killed)
