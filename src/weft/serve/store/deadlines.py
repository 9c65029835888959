"""Until when each lease lasts: in memory, by job and attempt. What counts is the attempt; time only ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class Deadlines:
    """Leases by job. Times are of the caller's monotonic clock, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def begin(self, job: str, attempt: int, now: float) -> None:
        with self._lock:
            self._until[job] = attempt, now + self._seconds

    def renew(self, job: str, attempt: int, now: float) -> None:
        """Unless it ended meanwhile, or a newer attempt has begun: that one is not this worker's to keep alive."""
        with self._lock:
            if self._attempt(job) == attempt:
                self._until[job] = attempt, now + self._seconds

    def end(self, job: str, attempt: int) -> None:
        with self._lock:
            if self._attempt(job) == attempt:
                del self._until[job]

    def over(self, held: Iterable[tuple[str, int]], now: float) -> list[tuple[str, int]]:
        """The leases whose time has run out.

        `held` are those of the database. One that only the database knows (the connection broke while the commit of
        its beginning was answered) begins to run here, so that no job is held by nobody for ever.
        """
        with self._lock:
            for job, attempt in held:
                if self._attempt(job) < attempt:
                    self._until[job] = attempt, now + self._seconds
            return [(job, attempt) for job, (attempt, until) in self._until.items() if until <= now]

    def _attempt(self, job: str) -> int:
        return self._until.get(job, (0, 0.0))[0]
