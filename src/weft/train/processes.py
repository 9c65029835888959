"""The processes that one `torchrun` started: who is here, and one way to tell each other numbers and texts.

What travels is JSON in byte tensors; nothing is unpickled that came over the network. Without torchrun there is one
process, and every function says so without asking anybody.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from weft.errors import ResourceError
from weft.train.torchrun import count, number, rank

PATIENCE = timedelta(minutes=30)
"""How long a process waits for one that lives but is busy: the first one writes checkpoints meanwhile."""
_SIGNS = ("gloo", "connection closed", "connection reset", "broken pipe", "socket", "nccl", "timed out", "recvvalue")
"""What is in the messages of a transport that lost its other end."""


def join() -> None:
    """Meet the others, once. Raises ResourceError where they do not come."""
    if count() == 1 or distributed.is_initialized():
        return
    both = torch.cuda.is_available()
    if both:
        torch.cuda.set_device(number("LOCAL_RANK", 0))
    with explained():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=PATIENCE)
    atexit.register(_leave)


def everyones(value: Any) -> list[Any]:
    """What each process gave, in order: numbers, texts, lists, tuples, tensors of floats, weft's own dataclasses."""
    if count() == 1:
        return [value]
    join()
    own = torch.frombuffer(bytearray(json.dumps(_plain(value)).encode()), dtype=torch.uint8)
    with explained():
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
        distributed.all_gather(sizes, torch.tensor([len(own)]))
        most = max(int(size) for size in sizes)
        found = [torch.zeros(most, dtype=torch.uint8) for _ in sizes]
        distributed.all_gather(found, torch.cat([own, own.new_zeros(most - len(own))]))
    texts = [bytes(part[: int(size)].tolist()) for part, size in zip(found, sizes, strict=True)]
    return [_lively(json.loads(text)) for text in texts]


def agreed(value: Any) -> Any:
    """The first process's value: what clocks and signals say must be the same everywhere."""
    return everyones(value)[0]


def add_up(tensors: list[Tensor]) -> None:
    """Sum each tensor over all processes, in place; the same bytes everywhere, in an order fixed by their number."""
    if count() == 1:
        return
    with explained():
        for part in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in part])
            distributed.all_reduce(flat)
            for tensor, summed in zip(part, flat.split([tensor.numel() for tensor in part]), strict=True):
                tensor.copy_(summed.view_as(tensor))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn a transport's failure into a ResourceError with a way out."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in _SIGNS)
        if not lost:
            raise
        raise ResourceError(
            f"process {rank()} of {count()} lost the others: one ended or cannot be reached (its own message says why; "
            "where there is none, it was killed, most likely for want of memory). The same torchrun command goes on "
            "from the last checkpoint."
        ) from None


def _leave() -> None:
    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def _buckets(tensors: list[Tensor], most: int = 1 << 25) -> Iterator[list[Tensor]]:
    """Neighbours together while they are at most `most` numbers: few messages, little memory."""
    part: list[Tensor] = []
    for tensor in tensors:
        if part and sum(other.numel() for other in part) + tensor.numel() > most:
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part


def _plain(value: Any) -> Any:
    """As JSON has it: what JSON has no form for is an object with one key that names it."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"dataclass": [type(value).__module__, type(value).__qualname__, fields]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(part) for part in value]}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _lively(value: Any) -> Any:
    """The reverse of `_plain`. A dataclass is one of weft that this process has imported itself."""
    if isinstance(value, list):
        return [_lively(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind, held = next(iter(value.items()))
    if kind == "tensor":
        return torch.tensor(held, dtype=torch.float32)
    if kind == "tuple":
        return tuple(_lively(part) for part in held)
    module, name, fields = held
    found = getattr(sys.modules.get(module), name, None) if module.startswith("weft.") else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ResourceError(f"another process sent a {module}.{name}, which is no record of weft. Use one version.")
    return found(**{key: _lively(part) for key, part in fields.items()})
