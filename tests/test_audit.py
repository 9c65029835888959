"""The guard of the suite itself: who tries to leave this machine is refused and its test fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit import CONNECTIONS, PROGRAMS, REFUSED, Watch, is_here


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.1", "169.254.169.254", "2001:db8::1"])
def test_a_connection_to_another_machine_is_refused_and_noted(host: str) -> None:
    """T43's positive control, with addresses of documentation and of private networks."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one, pytest.raises(ConnectionRefusedError, match="tests stay on this machine"):
        one.connect((host, 80))
    with socket.socket(family, socket.SOCK_DGRAM) as one, pytest.raises(ConnectionRefusedError):
        one.sendto(b"x", (host, 53))
    assert len(REFUSED) == 2
    REFUSED.clear()  # asked for: this test is not to fail


def test_the_name_of_another_machine_is_not_even_looked_up() -> None:
    for ask in (socket.gethostbyname, lambda name: socket.getaddrinfo(name, 443), lambda name: connect(name)):
        with pytest.raises(ConnectionRefusedError, match=r"weft\.invalid"):
            ask("weft.invalid")
    assert len(REFUSED) == 3
    REFUSED.clear()


def connect(name: str) -> None:
    socket.create_connection((name, 443), timeout=1)


def test_this_machine_may_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Watch(*CONNECTIONS) as watch:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    assert [event for event, _ in watch.told if event == "socket.connect"]
    assert all(map(is_here, ("127.9.9.9", "::1", None, "", "/run/x", ("127.0.0.1", 1), ("::1", 1, 0, 0), b"localhost")))
    assert not any(map(is_here, ("8.8.8.8", ("fe80::1%eth0", 1, 0, 1), "127.0.0.1.nip.io", "2130706433", ())))


def test_a_test_that_tries_fails_even_where_the_code_bears_it(tmp_path: Path) -> None:
    """The conftest's part, in a pytest of its own."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_call\n")
    (tmp_path / "test_bad.py").write_text(
        "import contextlib, socket\ndef test_bad():\n    with contextlib.suppress(OSError):\n"
        "        socket.create_connection(('192.0.2.1', 80), timeout=1)\ndef test_good(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_bad.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "tried to leave this machine: socket.getaddrinfo: '192.0.2.1'" in done.stdout


def test_a_watch_sees_files_and_programs_and_nothing_after_it(tmp_path: Path) -> None:
    with Watch("open", *PROGRAMS) as watch:
        (tmp_path / "a").write_text("")
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    open(tmp_path / "b", "w").close()
    opened = [given[0] for event, given in watch.told if event == "open"]
    assert tmp_path / "a" in [Path(path) for path in opened if isinstance(path, str | os.PathLike)]
    assert tmp_path / "b" not in opened
    assert "subprocess.Popen" in [event for event, _ in watch.told]
