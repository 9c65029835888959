"""The bases in use, each loaded once with one engine over it.

The first base is loaded by `warm` in a thread of its own, others by the first request for them. Why one could not be
loaded is for the log alone: who asks for it gets 503 `model_broken`. `revive`, called now and then, starts dead engines
again and lets a base that could not be loaded be tried once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from weft.errors import WeftError
from weft.generate.requests import Limits
from weft.serve.config import ServeConfig
from weft.serve.errors import unavailable
from weft.serve.logs import Log

if TYPE_CHECKING:
    from weft.generate.continuous import Engine
    from weft.models.load import Base

_MB = 1 << 20
_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class Trouble:
    """Why nothing can be answered now: a code, and a sentence that anybody may read."""

    code: str
    said: str


_LOADING = Trouble("loading", "The model is being loaded.")
_BROKEN = Trouble("model_broken", "The model cannot be loaded; the server's log tells why.")
_DEAD = Trouble("engine_dead", "The engine has stopped; it is being started again.")


@dataclass(frozen=True)
class _Running:
    base: Base
    engine: Engine


def limits_of(config: ServeConfig) -> Limits:
    """What one engine may hold, from the server's settings."""
    return Limits(
        rows=config.rows,
        waiting=config.waiting,
        waiting_tokens=config.waiting_tokens,
        cache_bytes=config.prefix_mb * _MB,
        adapter_bytes=config.adapters_mb * _MB,
    )


class Engines:
    """The engines of one server, by the name of their base. Safe to use from any thread."""

    def __init__(
        self,
        config: ServeConfig,
        adapter_folder: Callable[[str], Path],
        *,
        open_base: Callable[[str], Base] | None = None,
        start: Callable[[Base], Engine] | None = None,
        log: Log | None = None,
    ) -> None:
        """`open_base` and `start` are for tests and other engines; by default both are weft's own."""
        self._config = config
        self._first = config.bases[0]
        self._adapter_folder = adapter_folder
        self._open = open_base or self._load
        self._start = start or self._own
        self._log = log or Log(config.log)
        self._lock = threading.Lock()
        self._running: dict[str, Future[_Running]] = {}
        self._failed: dict[str, float] = {}
        self._closed = False

    def __call__(self, base: str) -> Engine:
        """The engine over `base`; blocks while it is loaded. Raises ApiError 503 when it cannot be loaded, the
        engine is dead or the server stops."""
        engine = self._one(base).engine
        if not engine.alive:
            raise unavailable(_DEAD.said, _DEAD.code)
        return engine

    def base(self, base: str) -> Base:
        """The loaded base; blocks and raises as a call does."""
        return self._one(base).base

    async def opened(self, base: str) -> None:
        """Wait until `base` can be asked for without blocking; one thread loads it, however many wait. Raises as a
        call does."""
        future, mine = self._claimed(base)
        if mine:
            await run_in_threadpool(self._fill, base, future)
        if not future.done():
            await asyncio.shield(asyncio.wrap_future(future))
        future.result()

    def warm(self) -> threading.Thread:
        """Load the first base in a thread; a failure is logged and waits for whoever asks."""

        def work() -> None:
            with contextlib.suppress(Exception):
                self._one(self._first)

        thread = threading.Thread(target=work, name="weft-warm", daemon=True)
        thread.start()
        return thread

    def trouble(self) -> Trouble | None:
        """Why the first base, or another that is in use, cannot answer now; None when all can."""
        with self._lock:
            known = {self._first: None, **self._running}
        for base, future in known.items():
            if base in self._failed:  # until it is loaded after all
                return _BROKEN
            if future is None or not future.done():
                return _LOADING
            if not future.result().engine.alive:
                return _DEAD
        return None

    def revive(self) -> list[str]:
        """Start engines that died once more, and let bases that could not be loaded be tried again; what was done."""
        done = []
        with self._lock:
            known = {} if self._closed else {base: future for base, future in self._running.items() if future.done()}
        for base, future in known.items():
            if future.exception() is not None:
                if time.monotonic() - self._failed.get(base, 0.0) > _RETRY_SECONDS:
                    with self._lock:
                        self._running.pop(base, None)
                    done.append(f"{base} could not be loaded; the next request tries again")
            elif not future.result().engine.alive:
                done.append(self._again(base, future.result()))
        return done

    def _again(self, base: str, dead: _Running) -> str:
        dead.engine.close(0)
        fresh: Future[_Running] = Future()
        fresh.set_result(_Running(dead.base, self._start(dead.base)))
        with self._lock:
            self._running[base] = fresh
        return f"the engine of {base} had stopped; another was started"

    def every(self) -> list[Engine] | None:
        """The engines that are there, where each base of the settings has one and all answer; else None."""
        running = self.running()
        whole = all(base in running for base in self._config.bases) and all(one.alive for one in running.values())
        return list(running.values()) if whole else None

    def running(self) -> dict[str, Engine]:
        """The engines that are there, by base."""
        with self._lock:
            done = {base: future for base, future in self._running.items() if future.done()}
        return {base: future.result().engine for base, future in done.items() if future.exception() is None}

    def close(self, drain_seconds: float = 0.0) -> None:
        """End every engine, after what it is doing or after this time."""
        with self._lock:
            self._closed = True
        for engine in self.running().values():
            engine.close(drain_seconds)

    def _one(self, base: str) -> _Running:
        future, mine = self._claimed(base)
        if mine:
            self._fill(base, future)
        return future.result()

    def _claimed(self, base: str) -> tuple[Future[_Running], bool]:
        """Where the engine of `base` is or will be, and whether the caller is the one who loads it. Raises ApiError."""
        with self._lock:
            if self._closed:
                raise unavailable("The server is stopping; ask again when it is back.", "draining")
            future = self._running.get(base)
            mine = future is None
            if future is None:
                future = self._running[base] = Future()
        return future, mine

    def _fill(self, base: str, future: Future[_Running]) -> None:
        try:
            opened = self._open(base)
            running = _Running(opened, self._start(opened))
        except Exception as error:
            self._failed[base] = time.monotonic()
            self._tell(base, error)
            # What was wrong is the operator's matter, whatever its kind, and may hold a path.
            future.set_exception(unavailable(_BROKEN.said, _BROKEN.code))
        else:
            self._failed.pop(base, None)
            future.set_result(running)

    def _tell(self, base: str, error: Exception) -> None:
        said = f"{base} could not be loaded ({type(error).__name__}: {error})"
        if isinstance(error, WeftError):
            self._log.say("engine", level="error", message=said)
        else:
            self._log.failed("engine", error, message=said)

    def _load(self, base: str) -> Base:
        from weft.models import precision
        from weft.models.load import load

        precision.settle()
        return load(base, device=self._config.device)

    def _own(self, base: Base) -> Engine:
        from weft.generate.continuous import Engine

        return Engine(base, self._adapter_folder, limits_of(self._config))
