"""T28 from outside, long: a file of 2 GB, and 200 senders who stop in the middle, against a server process."""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serve.outside import Outside, tiny
from weft.serve.keys import Keys

pytestmark = pytest.mark.slow
HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("bases") / "tiny")


def memory(process: int, what: str) -> int:
    """Bytes: `VmRSS` what it has, `VmHWM` the most since `forget`."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def forget(process: int) -> None:
    """Let the peak begin anew (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def test_two_gigabytes_are_taken_in_the_memory_of_a_few_pieces(base: Path, tmp_path: Path) -> None:
    size, piece = 2 << 30, os.urandom(1 << 20)

    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(size // len(piece)):
            yield piece
        yield b"\r\n--x--\r\n"

    with Outside(tmp_path, "--base", str(base), "--file-mb", "2048") as server:
        process = server.process.pid
        httpx.post(f"{server.address}/v1/files", content=[HEAD, piece, b"\r\n--x--\r\n"], headers=FORM, timeout=600)
        forget(process)
        before = memory(process, "VmRSS")
        answer = httpx.post(f"{server.address}/v1/files", content=body(), headers=FORM, timeout=600)
        more = memory(process, "VmHWM") - before
        print(f"T28: {size:,} bytes taken, {more / 2**20:.1f} MB more memory at most")
        assert answer.json()["bytes"] == size
        assert more <= 64 << 20
        over = httpx.post(f"{server.address}/v1/files", content=_one_more(body()), headers=FORM, timeout=600)
        assert over.status_code == 413
        assert len(list((server.data / "blobs").iterdir())) == 2 and not any((server.data / "tmp").iterdir())
        for name in (server.data / "blobs").iterdir():
            name.unlink()


def _one_more(body: Iterator[bytes]) -> Iterator[bytes]:
    yield next(body)
    yield b"!"
    yield from body


def times(address: str, key: str, count: int) -> list[float]:
    """Seconds of so many small requests, one after the other."""
    told = []
    with httpx.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        for _ in range(count):
            began = time.perf_counter()
            assert client.get("/v1/files").status_code == 200
            told.append(time.perf_counter() - began)
    return told


def p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


def test_two_hundred_senders_who_stop_hold_up_nobody_else(base: Path, tmp_path: Path) -> None:
    with Outside(tmp_path, "--base", str(base), "--slow-seconds", "20", "--concurrent-requests", "100") as server:
        keys = Keys.open(server.data)
        (_, loud), (_, quiet) = keys.create("loud", "loud"), keys.create("quiet", "quiet")
        keys.close()
        port = int(server.address.rsplit(":", 1)[1])
        times(server.address, quiet, 50)
        before = times(server.address, quiet, 300)
        held = []
        for _ in range(200):
            connection = socket.create_connection(("127.0.0.1", port))
            head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {loud}\r\n"
            head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            connection.sendall(head.encode() + HEAD + b"x" * 50_000)
            held.append(connection)
        time.sleep(1)
        during = times(server.address, quiet, 300)
        statuses: Counter[bytes] = Counter()
        for connection in held:
            connection.settimeout(90)
            statuses[connection.recv(12)[9:]] += 1
            connection.close()
        ratio = p95(during) / p95(before)
        print(f"T28: 200 senders who stop: {dict(statuses)}; others' p95 {p95(before):.4f} s, then {p95(during):.4f} s")
        assert statuses == {b"408": 100, b"429": 100}
        assert ratio <= 2
        assert not any((server.data / "tmp").iterdir())
