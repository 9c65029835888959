"""`weft serve` as its users meet it: a process of its own, an address, and nothing of the test inside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from weft.testing import byte_tokenizer, tiny_model

ROOT = Path(__file__).resolve().parents[2]
_ADDRESS = re.compile(r"^weft serves on (http://\S+)$", re.MULTILINE)
_OURS = ("OPENAI_", "WEFT_")
FINAL = ("succeeded", "failed", "cancelled")
NEVER_ENDS = {"256": -100, "257": -100, "258": -100}
"""A `logit_bias` that forbids the byte tokenizer's control tokens: an answer lasts until its limit."""


def environment(home: Path, **told: str) -> dict[str, str]:
    """This process's environment without anything that speaks to weft or the SDK; one thread, and `told`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **told}


class Outside:
    """A server process on the folder `home`; started again on the same folder, it goes on."""

    def __init__(self, home: Path, *arguments: str) -> None:
        """`arguments` of `weft serve` beside the port and the data folder."""
        self.home, self.arguments = home, arguments
        self.data = home / "data"
        self.address = ""
        self._starts = 0
        home.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Begin a process and wait until it answers on /ready."""
        self._starts += 1
        log = self.home / f"serve-{self._starts}.log"
        command = [sys.executable, "-m", "weft", "serve", "--port", "0", "--data", str(self.data), *self.arguments]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=self.home, env=environment(self.home), stderr=errors)
        self.address = found(log, self.process)
        until(lambda: httpx.get(f"{self.address}/ready").status_code == 200, 180, (httpx.TransportError,))

    def sdk(self, **options: Any) -> OpenAI:
        """The SDK over this server, without retries."""
        return OpenAI(
            **{"api_key": "any", "base_url": f"{self.address}/v1", "max_retries": 0, "timeout": 120} | options
        )

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tell it to leave; AssertionError where it does not leave well and nothing else was wrong."""
        status = self.end() if self.process.poll() is None else self.process.returncode
        if kind is None:
            assert status == 0, (self.home / f"serve-{self._starts}.log").read_text()[-2000:]

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A program of examples/hosted with two environment variables and nothing else."""
        told = {"OPENAI_BASE_URL": f"{self.address}/v1", "OPENAI_API_KEY": "any"}
        command = [sys.executable, str(ROOT / "examples" / "hosted" / program), *arguments]
        return subprocess.run(
            command, cwd=self.home, env=environment(self.home, **told), capture_output=True, text=True, timeout=1200
        )

    def end(self, number: int = signal.SIGTERM, seconds: float = 90) -> int:
        """Send a signal and wait; the exit status. One that does not leave is killed, and TimeoutExpired raised."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()


def found(log: Path, process: subprocess.Popen[bytes], seconds: float = 180) -> str:
    """The address that a starting server writes into its log."""

    def look() -> str | None:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        said = _ADDRESS.search(log.read_text())
        return said[1] if said else None

    return until(look, seconds)


def until(what: Callable[[], Any], seconds: float, bearable: tuple[type[Exception], ...] = ()) -> Any:
    """Wait until something is true; what it was. `bearable` errors count as not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if told := what():
                return told
        except bearable:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"it did not happen within {seconds} s")
        time.sleep(0.05)


def tiny(folder: Path, context: int = 256) -> Path:
    """A two-layer base of random weights and bytes as tokens at `folder`."""
    model, tokenizer = tiny_model(context=context), byte_tokenizer()
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(path: Path, count: int = 12) -> Path:
    """A training file of `count` short chats."""
    words = ("river", "candle", "orbit", "velvet", "hammer", "pocket", "winter", "saddle", "copper", "meadow")
    chats = (
        {
            "messages": [
                {"role": "user", "content": f"{words[n % 10]} number {n * 7919 % 1000}"},
                {"role": "assistant", "content": words[(n + 3) % 10]},
            ]
        }
        for n in range(count)
    )
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path
