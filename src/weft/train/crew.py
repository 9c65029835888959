"""A step's rows dealt to several processes of one thread each, whose gradients are summed in a fixed order.

The products of a small model are too short for threads to share (`models/threads.py`), the rows of a step are not. The
others are forks of this process: frozen weights are shared as they are, what learns lies in shared memory, and only
gradients and losses travel. What the others draw at random begins with a number that this process draws, whose
generator checkpoints keep. Larger models, other devices, full fine-tuning and systems without fork keep one process and
its threads. The same number of threads gives the same bytes, another one other roundings and draws.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from weft.errors import ResourceError, TrainError
from weft.models.quant import is_quantized
from weft.models.threads import SMALL
from weft.records import Tokens

MOST = 4
"""Most processes: each takes the memory of its own activations."""

Told = TypeVar("Told")


def hands(model: nn.Module, batch_size: int) -> int:
    """How many processes share a step. Depends on the model and the number of threads, never on time."""
    parameters = list(model.parameters())
    fits = sum(parameter.numel() for parameter in parameters) <= SMALL and parameters[0].device.type == "cpu"
    adapter = any(not parameter.requires_grad for parameter in parameters)
    # bitsandbytes has threads of its own, which a fork would wait for.
    if not (fits and adapter) or is_quantized(model) or sys.platform != "linux":
        return 1
    return max(1, min(torch.get_num_threads(), MOST, batch_size))


def shares(rows: Sequence[Tokens], count: int) -> list[list[int]]:
    """The numbers of the rows in at most `count` parts, even in tokens; rows that begin alike stay together."""
    order = sorted(range(len(rows)), key=lambda row: rows[row].ids)
    whole = sum(len(row.ids) for row in rows)
    parts: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for row in order:
        middle = before + len(rows[row].ids) / 2
        parts[min(count - 1, int(middle * count / whole))].append(row)
        before += len(rows[row].ids)
    return [part for part in parts if part]


class Crew(Generic[Told]):
    """Call it with arguments for each hand: `work(*part)` adds to the gradients of `parameters` and tells something.

    The first part is this process's own. Use it as a context: the others end with it. Raises what `work` raises, and
    ResourceError where a process was ended from outside.
    """

    def __init__(self, work: Callable[..., Told], parameters: Sequence[nn.Parameter], count: int) -> None:
        self.count = count
        self._work, self._parameters = work, parameters
        self._others: list[_Other] = []
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Crew[Told]:
        if self.count > 1:
            for parameter in self._parameters:
                parameter.data = parameter.data.share_memory_()
        for _ in range(self.count - 1):
            self._others.append(self._opened.enter_context(_other(self._work, self._parameters)))
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()
        self._others.clear()

    def __call__(self, parts: Sequence[tuple[Any, ...]]) -> list[Told]:
        """What each part's work told, in order; the parameters' gradients are the sums."""
        if len(parts) > self.count:
            raise TrainError(f"{len(parts)} parts for {self.count} hands")
        busy = self._others[: len(parts) - 1]
        for other, part in zip(busy, parts[1:], strict=True):
            other.pipe.send((int(torch.randint(2**62, ())), part))
        with one_thread() if self.count > 1 else contextlib.nullcontext():
            told = [self._work(*parts[0])]
        for other in busy:
            told.append(other.told())
            for parameter, gradient in zip(self._parameters, other.gradients, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(gradient)
        return told


class _Other:
    """Another process, seen from this one."""

    def __init__(self, pipe: Connection, gradients: Sequence[Tensor]) -> None:
        self.pipe, self.gradients = pipe, gradients

    def told(self) -> Any:
        try:
            worked, told = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise ResourceError(
                "a process that shared the step was ended from outside, most likely for want of memory. "
                "The same command goes on; OMP_NUM_THREADS=1 keeps everything in one process."
            ) from None
        if not worked:
            raise told
        return told


@contextlib.contextmanager
def _other(work: Callable[..., Any], parameters: Sequence[nn.Parameter]) -> Iterator[_Other]:
    fork = multiprocessing.get_context("fork")
    gradients = [torch.zeros_like(parameter.data).share_memory_() for parameter in parameters]
    here, there = fork.Pipe()
    process = fork.Process(target=_serve, args=(work, parameters, gradients, here, there), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process's threads wait; the other starts none
        process.start()
    there.close()
    try:
        yield _Other(here, gradients)
    finally:
        here.close()  # which ends the other
        process.join(1)
        process.kill()
        process.join()


def _serve(
    work: Callable[..., Any],
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    here: Connection,
    there: Connection,
) -> None:
    """Work on what arrives until the pipe is closed. Signals are for the process that answers for the run."""
    import signal

    here.close()
    for told_to_all in (signal.SIGINT, signal.SIGTERM):  # a service manager tells every process of a group
        signal.signal(told_to_all, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        try:
            seed, part = there.recv()
        except (EOFError, OSError):
            return
        try:
            torch.manual_seed(seed)
            for parameter in parameters:
                parameter.grad = None
            told = True, work(*part)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                gradient.copy_(parameter.grad) if parameter.grad is not None else gradient.zero_()
        except Exception as error:
            told = False, error
        try:
            there.send(told)
        except OSError:
            return


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, products use one thread: the other cores have work of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
