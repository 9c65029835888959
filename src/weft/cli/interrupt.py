"""Ctrl-C that is not lost: Python drops an exception that is raised while library code in C looks for an attribute or
ends an object, and with it an interrupt that arrives just then. So it is noted, and raised again where work tells of
itself.
"""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupt:
    """As a context it hears SIGINT; outside, and where SIGINT is ignored or handled otherwise, it changes nothing."""

    def __init__(self) -> None:
        self._pressed = self._listening = False

    def __enter__(self) -> Interrupt:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)
            self._listening = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._listening:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._listening = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where one was raised before and did not arrive."""
        if self._pressed:
            raise KeyboardInterrupt

    def _hear(self, *_: Any) -> None:
        self._pressed = True
        raise KeyboardInterrupt
