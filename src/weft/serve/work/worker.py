"""One attempt, from its order to its last word. Forked from the nursery; it exits with what it has told."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable

import torch

from weft.errors import ResourceError, Stopped, WeftError
from weft.serve.work.channel import Closed, Theirs
from weft.serve.work.checking import check
from weft.serve.work.confine import at_bound, bound
from weft.serve.work.failures import failed
from weft.serve.work.learning import learn
from weft.serve.work.protocol import Left, Order, Word
from weft.serve.work.reporter import Reporter

_PHASES: dict[str, Callable[[Order, Reporter], Word]] = {"validate": check, "train": learn}


def work(end: socket.socket) -> int:
    """Do what the order on this channel says; the exit status: 0 when the supervisor heard how it ended."""
    channel = Theirs(end)
    try:
        order = channel.order()
        channel.say(_bounded(order, channel))
    except Closed:
        return 1
    return 0


def _bounded(order: Order, channel: Theirs) -> Word:
    """The last word of the attempt, whatever it met."""
    try:
        torch.set_num_threads(order.threads)
        with Reporter(order, channel) as reporter:
            bound(order.memory_bytes, order.file_bytes)  # a thread that gets no memory would never say that it began
            last = _attempt(order, reporter)
            reporter.close_books()
        return last
    except Closed:
        raise
    except Exception as error:
        traceback.print_exc()
        return failed(error, _names(order))


def _attempt(order: Order, reporter: Reporter) -> Word:
    try:
        return _PHASES[order.phase](order, reporter)
    except Stopped:
        return Left()
    except Exception as error:
        # While the error's frames still hold what was there.
        explained = isinstance(error, WeftError) and not isinstance(error, ResourceError)
        if not explained and at_bound(order.memory_bytes):
            raise MemoryError(f"at the bound of {order.memory_bytes:,} bytes") from error
        raise


def _names(order: Order) -> dict[str, str]:
    """Paths that may stand in a message, and what the owner of the job calls them."""
    named = {order.training: order.training_id, order.base_folder: order.base, order.folder: "the job's folder"}
    if order.validation and order.validation_id:
        named[order.validation] = order.validation_id
    return named
