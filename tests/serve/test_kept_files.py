"""T1 over HTTP: eight clients upload while the server is killed; what it acknowledged is there, whole; nothing else is.

The store's own form is `store/test_faults.py`. Here the client's word counts: status 200 was read from the wire.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.serve.outside import ROOT
from tests.serve.store.scenes import lying
from weft.serve.store import Store

CLIENTS = 8
PATIENCE = 600
"""Seconds for anything that should take a moment: machines may be busy."""


@dataclass
class Clients:
    """Eight threads that upload, look again and delete, and what the server told them."""

    most: int
    address: str | None = None
    kept: dict[str, str] = field(default_factory=dict)
    """File id → SHA-256 of its bytes, for every upload that was acknowledged and not asked to be deleted."""
    gone: set[str] = field(default_factory=set)
    """Deleted, and told so."""
    acknowledged: int = 0
    broken: int = 0
    """Requests whose answer never came."""
    wrong: list[str] = field(default_factory=list)
    lock: threading.Condition = field(default_factory=threading.Condition)

    def run(self, number: int) -> None:
        chance, known = random.Random(number), None
        client = httpx.Client()
        while (address := self._place()) is not None:
            if address != known:
                client.close()
                client, known = httpx.Client(base_url=address, timeout=PATIENCE), address
            try:
                self._turn(client, chance)
            except httpx.TransportError:
                with self.lock:
                    self.broken += 1
                    if self.address == address:
                        self.address = None
        client.close()

    def _place(self) -> str | None:
        with self.lock:
            self.lock.wait_for(lambda: self.address is not None or self.acknowledged >= self.most, PATIENCE)
            return self.address if self.acknowledged < self.most else None

    def _turn(self, client: httpx.Client, chance: random.Random) -> None:
        data = chance.randbytes(chance.choice((1, 1000, 70_000, 300_000)))
        told = client.post("/v1/files", files={"file": ("a.bin", data)}, data={"purpose": "user_data"})
        if told.status_code != 200:
            self.wrong.append(f"upload: {told.status_code} {told.text[:200]}")
            return
        id_ = told.json()["id"]
        with self.lock:
            self.acknowledged += 1
            self.kept[id_] = hashlib.sha256(data).hexdigest()
            self.lock.notify_all()
        if chance.random() < 0.2:
            with self.lock:
                del self.kept[id_]  # until the answer is there, nobody knows
            if client.delete(f"/v1/files/{id_}").status_code == 200:
                with self.lock:
                    self.gone.add(id_)
        elif chance.random() < 0.2:
            read = client.get(f"/v1/files/{id_}/content")
            if read.status_code != 200 or read.content != data:
                self.wrong.append(f"content of {id_}: {read.status_code}, {len(read.content)} bytes")


def filing(data: Path) -> tuple[subprocess.Popen[str], str]:
    """A server process on `data`, and its address."""
    command = [sys.executable, "-m", "tests.serve.filing", str(data)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def kill_while_uploading(data: Path, kills: int, uploads: int, seed: int) -> Clients:
    """Servers on `data`, each killed at a random moment, until so many uploads were acknowledged; then all is looked
    at from inside and from outside."""
    chance, clients = random.Random(seed), Clients(uploads)
    threads = [threading.Thread(target=clients.run, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for number in range(kills + 1):
        process, address = filing(data)
        with clients.lock:
            before, clients.address = clients.acknowledged, address
            clients.lock.notify_all()
            share = (uploads - before) // (kills + 1 - number)
            after = before + (share if number == kills else chance.randint(0, share))
            clients.lock.wait_for(lambda after=after: clients.acknowledged >= after, PATIENCE)
        if number < kills:
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.wait()
            with clients.lock:
                if clients.address == address:
                    clients.address = None
    for thread in threads:
        thread.join(PATIENCE)
    _look_from_outside(address, clients)
    process.terminate()
    assert process.wait(60) == 0
    _look_from_inside(data, clients)
    return clients


def _look_from_outside(address: str, clients: Clients) -> None:
    assert clients.wrong == []
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        for id_, sha256 in clients.kept.items():
            told = client.get(f"/v1/files/{id_}/content")
            assert told.status_code == 200 and hashlib.sha256(told.content).hexdigest() == sha256, id_
        for id_ in clients.gone:
            assert client.get(f"/v1/files/{id_}").status_code == 404


def _look_from_inside(data: Path, clients: Clients) -> None:
    store = Store.open(data)
    try:
        assert store.check(deep=True) == ()
        assert lying(store.data / "tmp") == set()
    finally:
        store.close()


def test_a_server_killed_while_files_arrive_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """T1 over HTTP, short: two kills."""
    told = kill_while_uploading(tmp_path / "data", kills=2, uploads=24, seed=1)
    assert told.acknowledged >= 24 and told.broken >= 1


@pytest.mark.slow
def test_a_server_killed_twenty_times_while_files_arrive_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    told = kill_while_uploading(tmp_path / "data", kills=20, uploads=500, seed=2)
    print(
        f"T1 over HTTP: {told.acknowledged} uploads acknowledged, {told.broken} requests broken off, "
        f"{len(told.kept)} files whole, {len(told.gone)} deleted stay so"
    )
    assert told.acknowledged >= 500
