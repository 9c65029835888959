"""Processes as a torchrun starts them, forked from the test's own so that nothing is imported again."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from weft.errors import WeftError
from weft.train import processes


def in_processes(work: Callable[[int], Any], count: int = 2) -> list[Any]:
    """What `work(rank)` gave in each process of a torchrun, an error as its text; None for one that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(count)]
    members = [fork.Process(target=_member, args=(work, rank, count, port, pipes[rank][1])) for rank in range(count)]
    for member in members:
        member.start()
    found = []
    for member, (here, there) in zip(members, pipes, strict=True):
        there.close()
        member.join(300)
        alive = member.is_alive()
        if alive:
            member.kill()
        assert not alive, "a process was left waiting"
        try:
            found.append(json.loads(here.recv_bytes()))
        except EOFError:
            found.append(None)
    return found


def _member(work: Callable[[int], Any], rank: int, count: int, port: int, told: Any) -> None:
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        found = work(rank)
    except WeftError as error:
        found = f"{type(error).__name__}: {error}"
    except Exception:
        found = traceback.format_exc()
    told.send_bytes(json.dumps(found).encode())
    processes._leave()
    os._exit(0)
