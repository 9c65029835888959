"""Two servers over HTTP, the base alone (the peer knows no adapters): `weft serve` and `transformers serve`.

Each is started by its own command, with continuous batching where the peer's works and without it where it does not.
The same chats are sent by as many threads as there are clients; counted are the tokens that each server says it made.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serve_grounds import median
from weft.errors import RunError

START = 180.0
"""Seconds that a server may take to answer."""


class Server:
    """A server's process. Raises RunError where it does not start, with the end of what it said."""

    def __init__(self, name: str, command: list[str], port: int, model: str, log: Path, threads: int) -> None:
        self.name, self.model, self._url, self._log = name, model, f"http://127.0.0.1:{port}", log
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WEFT_OFFLINE": "1"}
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        # One for all: making one loads certificates, for longer than a small base takes to answer.
        self._http = httpx.Client(timeout=600, trust_env=False, limits=httpx.Limits(max_connections=None))
        until = time.monotonic() + START
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if self._http.get(f"{self._url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        self.close()
        raise RunError(f"{name} did not start: {self.said()}")

    def tokens_per_second(self, clients: int, new: int, turn: int) -> float:
        """All clients ask at once; what the server says it made, per second until the last answer."""
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            begun = time.perf_counter()
            made = sum(pool.map(lambda number: self._ask(number, new, turn), range(clients)))
            return made / (time.perf_counter() - begun)

    def _ask(self, number: int, new: int, turn: int) -> int:
        question = f"Turn {turn}, client {number}: write a long story about a river, its bridge and {number} boats."
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": question}], "max_tokens": new,
            "temperature": 0,
        }  # fmt: skip
        try:
            answer = self._http.post(f"{self._url}/v1/chat/completions", json=body).raise_for_status().json()
            return int(answer["usage"]["completion_tokens"])
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.name} failed: {error}; {self.said()}") from None

    def said(self) -> str:
        """The end of what the server wrote."""
        return " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])

    def close(self) -> None:
        """End it."""
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compared(given: argparse.Namespace, model: str, base: Path, folder: Path) -> dict[str, Any]:
    """One row: tokens per second of both servers, in turn."""
    peer = _peer(given, base, folder)
    try:
        ours = _ours(given, base, folder)
        try:
            rounds = [
                [server.tokens_per_second(given.clients, given.new, turn) for server in (ours, peer)]
                for turn in range(given.rounds + 1)  # the first one warms up
            ][1:]
        finally:
            ours.close()
    finally:
        peer.close()
    return {
        "what": "http", "model": model, "clients": given.clients, "peer": peer.name,
        "weft": median([turn[0] for turn in rounds]), "transformers": median([turn[1] for turn in rounds]),
        "ratio": median([turn[0] / turn[1] for turn in rounds]),
    }  # fmt: skip


def _ours(given: argparse.Namespace, base: Path, folder: Path) -> Server:
    port = _free_port()
    command = [sys.executable, "-m", "weft", "serve", "--port", str(port), "--data", str(folder / "weft")]
    command += ["--base", str(base), "--alias", f"measured={base}", "--device", "cpu"]
    return Server("weft serve", command, port, "measured", folder / "weft.log", given.threads)


def _peer(given: argparse.Namespace, base: Path, folder: Path) -> Server:
    """With continuous batching, if that answers one question; else without."""
    why = ""
    for batching in ("--continuous-batching", "--no-continuous-batching"):
        port = _free_port()
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(base), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", given.precision, batching]
        try:
            server = Server(
                f"transformers serve {batching}", command, port, str(base), folder / "peer.log", given.threads
            )
            try:
                server.tokens_per_second(1, 4, 0)
                return server
            except RunError:
                server.close()
                raise
        except RunError as error:
            why = str(error)
    raise RunError(why)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
