"""Ctrl-C and SIGTERM that are not lost: Python drops an exception that is raised while library code in C looks for an
attribute or ends an object, and with it a signal that arrives just then. So it is noted, and raised again where work
tells of itself.

A training answers SIGTERM itself: it saves between two steps (train/stop.py). So does a server, which drains.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Terminated(BaseException):
    """SIGTERM arrived; what it leaves is what Ctrl-C leaves. No Exception, so that nothing takes it for a failure."""


def _terminate(*_: Any) -> None:
    raise Terminated


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated; where it is ignored or handled otherwise, nothing changes."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Interrupt:
    """As a context it hears both signals; outside, and where one is ignored or handled otherwise, nothing changes."""

    def __init__(self) -> None:
        self._before: dict[int, Callable[..., Any]] = {}
        self._again: Callable[[], Any] | None = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number, raises in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
                if signal.getsignal(number) is raises:
                    self._before[number] = raises
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, raises in self._before.items():
            signal.signal(number, raises)
        self._before = {}
        if not any(raised):
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt or Terminated where one was raised before and did not arrive."""
        again, self._again = self._again, None
        if again is not None:
            again()

    def _hear(self, number: int, frame: Any) -> None:
        self._again = functools.partial(self._before[number], number, None)
        self._again()
