"""`Server`: what the routes share, in one frozen bundle. It is made once, by `weft serve` or by a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weft.serve.config import ServeConfig
from weft.serve.entrance import Entrance
from weft.serve.logs import Log
from weft.serve.measures import Measures

if TYPE_CHECKING:
    from weft.serve.engines import Engines
    from weft.serve.leases import Leases
    from weft.serve.names import Names
    from weft.serve.store import Store


@dataclass(frozen=True)
class Server:
    """The parts that outlive a request. Routers are made from it: `router(server) -> APIRouter`."""

    config: ServeConfig
    store: Store
    leases: Leases
    names: Names
    engines: Engines
    """`engines(base)` is its running Engine, `engines.base(base)` the loaded Base with its Chat; the first call loads
    (blocks: not on the event loop)."""
    clock: Callable[[], float] = time.time
    """Unix seconds."""
    log: Log = field(default_factory=Log)
    """Where things are told to the operator."""
    measures: Measures = field(default_factory=Measures)
    """What `/metrics` tells, in a registry of this server's own."""
    entrance: Entrance = field(default_factory=Entrance)
    """Refuses requests that the engines have no place for."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set once the server is to stop: nothing new is admitted (503), what runs may end."""
