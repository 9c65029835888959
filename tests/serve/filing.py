"""`python -m tests.serve.filing DATA`: the server on a data folder, without bases and workers, so that it starts within
a second. Routes, guard, store and HTTP are those of `weft serve`."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

from tests.serve.conftest import SilentEngine
from weft.serve.app import build
from weft.serve.config import ServeConfig
from weft.serve.engines import Engines
from weft.serve.listen import Uvicorn, bind, open_server


def main() -> None:
    """Serve until a signal; the address is the first line of standard output."""
    config = ServeConfig(data=sys.argv[1], port=0, log="none")
    listener = bind(config)
    server = open_server(config)
    engines = Engines(
        config,
        server.store.blobs.adapter,
        open_base=lambda name: SimpleNamespace(name=name),  # type: ignore[arg-type, return-value]
        start=lambda base: SilentEngine(),  # type: ignore[arg-type, return-value]
    )
    server = dataclasses.replace(server, engines=engines)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    Uvicorn(server, build(server)).run(sockets=[listener])
    server.store.close()


if __name__ == "__main__":
    main()
