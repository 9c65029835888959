"""What was written a moment ago and no row names yet: kept from the sweep.

Content is put first and named after, in a transaction of its own. Between the two a delete of equal content, or the
sweep, must not take it away. So whoever puts holds a pin; naming lets go of it; removing happens under the same lock,
only where nobody holds one. A pin that is never let go of (its request failed in between) ends by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LIFE_SECONDS = 3600.0


class Pins:
    """Pins by name, counted, in this process alone: at start nothing is being written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._held: dict[str, list[float]] = {}

    def hold(self, name: str) -> None:
        with self.lock:
            self._held.setdefault(name, []).append(self._clock() + LIFE_SECONDS)

    def release(self, name: str) -> None:
        """Let go of one pin, the oldest; of none where there is none."""
        with self.lock:
            held = self._held.get(name, [])
            del held[:1]
            if not held:
                self._held.pop(name, None)

    def held(self, name: str) -> bool:
        with self.lock:
            now = self._clock()
            held = [until for until in self._held.get(name, ()) if until > now]
            if held:
                self._held[name] = held
            else:
                self._held.pop(name, None)
            return bool(held)
