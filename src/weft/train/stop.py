"""The order to stop: given by SIGTERM or by another thread, obeyed by a training between two steps.

What has to be saved before it leaves is the affair of `steps.py`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stop:
    """An order that may be given at any time, from any thread, and stands once it was given."""

    def __init__(self) -> None:
        self._given = threading.Event()

    def order(self) -> None:
        """Stop after the step that is being done."""
        self._given.set()

    @property
    def ordered(self) -> bool:
        return self._given.is_set()


@contextlib.contextmanager
def by_terminate(stop: Stop) -> Iterator[None]:
    """Inside, SIGTERM gives the order instead of ending the process; only a process's main thread can hear it.

    Processes that are forked inside keep this until they choose otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.order())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
