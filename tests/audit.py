"""What this process does, as Python's audit hooks tell it (PEP 578): files opened, programs started, connections made.

`Watch` notes it for a test. A connection to another machine is refused at any time and noted in `REFUSED`, which
`tests/conftest.py` turns into a failure of the test, whatever the code made of the refusal (T43).
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

_HOSTS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Events that name another machine, and where among what they tell."""
CONNECTIONS = frozenset(_HOSTS)
PROGRAMS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pickle.find_class")
)
REFUSED: list[str] = []
"""Connections to other machines that this process tried."""
_watches: list[Watch] = []


class Watch:
    """Notes events of these kinds, from all threads, while inside."""

    def __init__(self, *events: str) -> None:
        self.events = frozenset(events)
        self.told: list[tuple[str, tuple[Any, ...]]] = []

    def __enter__(self) -> Watch:
        _watches.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watches.remove(self)


def is_here(address: Any) -> bool:
    """Whether an address of a socket, or a name, is this machine's own: loopback, a Unix socket, its own name."""
    if isinstance(address, str | bytes) or address is None:
        return address is None or _is_own(address)
    return _is_own(address[0]) if isinstance(address, tuple) and address else False


def _is_own(host: str | bytes) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name in ("", "localhost", socket.gethostname()) or name.startswith(("/", "\0")):
        return True
    try:
        found = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


def _hook(event: str, given: tuple[Any, ...]) -> None:
    for watch in _watches:
        if event in watch.events:
            watch.told.append((event, given))
    if event in _HOSTS and not is_here(address := given[_HOSTS[event]]):
        REFUSED.append(f"{event}: {address!r}")
        raise ConnectionRefusedError(f"tests stay on this machine: {event} with {address!r}")


sys.addaudithook(_hook)
