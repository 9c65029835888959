"""From settings to a listening server: open the store, bind, say where it is, serve, drain, close.

SIGTERM and Ctrl-C stop admitting at once (503), let answers end within `drain_seconds`, then save the jobs that train
and leave. A second signal ends without waiting.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import uvicorn
from fastapi import APIRouter

from weft.errors import UsageError
from weft.models import float32_route
from weft.serve import bases
from weft.serve.app import build
from weft.serve.config import ServeConfig
from weft.serve.engines import Engines
from weft.serve.leases import Leases
from weft.serve.logs import Log
from weft.serve.names import Names
from weft.serve.server import Server
from weft.serve.store import Store

Pages = Sequence[Callable[[Server], APIRouter]]
_BACKLOG = 512
_LEFT_SECONDS = 3
"""How long connections may take to close after the answers have ended."""


def open_server(config: ServeConfig) -> Server:
    """The parts of a server on its data folder; its `store` is to be closed.

    Raises UsageError where another address than loopback is asked for and there is no key, and what the store raises.
    """
    store = Store.open(config.folder, config.database, organisation=config.organization)
    log = Log(config.log)
    try:
        if not config.loopback and not store.keys.exist():
            raise UsageError(
                f"--host {config.host} lets other machines in, and there is no key yet that they would need. Make one "
                f"first: weft keys create NAME --data {config.folder}. Or listen on this machine alone: "
                "--host 127.0.0.1."
            )
        return Server(
            config=config,
            store=store,
            leases=Leases(store, seconds=config.lease_seconds),
            names=Names.of(config, store),
            engines=Engines(config, store.blobs.adapter, log=log),
            log=log,
        )
    except BaseException:
        store.close()
        raise


def bind(config: ServeConfig) -> socket.socket:
    """A listening socket. Raises UsageError where the address is taken or is none of this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {config.host} port {config.port} ({error.strerror}). "
            "Take another --port (0 finds a free one) or --host."
        ) from None
    listener.listen(_BACKLOG)
    listener.set_inheritable(False)
    return listener


def serve(config: ServeConfig, *, out: TextIO | None = None, pages: Pages = ()) -> None:
    """Serve until a signal; the lines that a person wants to see go to `out` (default: stderr). `pages`: as `build`.

    Raises UsageError for a base that is not there or cannot be loaded, as `float32_route`, `bind` and `open_server` do.
    """
    bases.look(config)
    float32_route.asked()
    listener = bind(config)
    try:
        server = open_server(config)
    except BaseException:
        listener.close()
        raise
    try:
        address = _address(config.host, listener.getsockname()[1])
        print("\n".join(greeting(server, address)), file=out or sys.stderr, flush=True)
        with server.log.collecting():
            running(server, pages).run(sockets=[listener])
    finally:
        server.store.close()
        listener.close()


def running(server: Server, pages: Pages = ()) -> Uvicorn:
    """The HTTP server around the application, with the supervisor of the workers beside it."""
    from weft.serve.work.supervisor import Supervisor

    return Uvicorn(server, build(server, background=Supervisor, pages=pages))


def greeting(server: Server, address: str) -> list[str]:
    """What a person reads at the start."""
    config, database = server.config, server.store.ground.database
    aliases = [f"{name} = {server.names.shown(base)}" for name, base in server.names.bases().items()]
    aliases = [said if said.split(" = ")[0] != said.split(" = ")[1] else said.split(" = ")[0] for said in aliases]
    if server.store.keys.exist():
        key = "OPENAI_API_KEY=…        # a key that `weft keys create NAME` gave"
    else:
        key = "OPENAI_API_KEY=any      # no key has been created: any is accepted, from this machine alone"
    return [
        f"weft serves on {address}",
        f"  export OPENAI_BASE_URL={address}/v1",
        f"  export {key}",
        f"  models: {', '.join(aliases)}",
        f"  data:   {config.folder}" + ("" if database.is_sqlite else f", {database.place}"),
    ]


class Uvicorn(uvicorn.Server):
    """uvicorn that answers 503 while it drains, instead of closing its door at once."""

    def __init__(self, server: Server, app: Any) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_LEFT_SECONDS,
        )
        super().__init__(config)
        self._weft = server
        self._deadline: float | None = None
        self._told = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal begins to drain, the next one ends at once."""
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        drain = self._weft.config.drain_seconds
        self._deadline = time.monotonic() + drain
        self._weft.draining.set()
        threading.Thread(target=self._weft.engines.close, args=(drain,), name="weft-drain", daemon=True).start()

    async def on_tick(self, counter: int) -> bool:
        """Whether to leave: told to, and nothing is being answered any more or the time is up."""
        if await super().on_tick(counter):
            return True
        if self._deadline is None:
            return False
        if not self._told:  # not in the signal's handler, which may have interrupted the log
            self._told = True
            drain = self._weft.config.drain_seconds
            self._weft.log.say("stopping", message=f"answers have {drain:g} s to end; another signal ends at once")
        # One round of the loop, so that a request which was just read is counted.
        await asyncio.sleep(0)
        return not self.server_state.tasks or time.monotonic() > self._deadline + _LEFT_SECONDS


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
