"""The order to stop: given by SIGTERM or by another thread, obeyed by a training between two steps.

What has to be saved before it leaves is the affair of `steps.py`. An order that comes with the last step or later finds
nothing to stop: what was learned is published whole, and then the signal is passed on (`road/tune.py`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from weft.train import processes


class Stop:
    """An order that may be given at any time, from any thread, and stands once it was given."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self._signal = 0

    def order(self, number: int = 0) -> None:
        """Stop after the step that is being done; `number`: of the signal that says so."""
        self._signal = number or self._signal
        self._given.set()

    @property
    def ordered(self) -> bool:
        return self._given.is_set()

    def pass_on(self) -> None:
        """Raise the signal that gave the order, if one did, once more: for whoever listens by now, or to its usual end.

        Under a torchrun in every process, whichever heard it.
        """
        if number := max(processes.everyones(self._signal)):
            signal.raise_signal(number)


@contextlib.contextmanager
def by_terminate(stop: Stop) -> Iterator[None]:
    """Inside, SIGTERM gives the order instead of ending the process; only a process's main thread can hear it.

    Processes that are forked inside keep this until they choose otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: stop.order(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
