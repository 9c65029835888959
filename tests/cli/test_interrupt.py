"""Ctrl-C ends the work also where the exception that it raised was dropped on the way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from weft.cli.interrupt import Interrupt
from weft.cli.terminal import TerminalProgress


def _lose_an_interrupt() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("tell", [lambda progress: progress.advance(), lambda progress: progress.start("next")])
def test_an_interrupt_that_was_lost_is_raised_where_work_tells_of_itself(
    tell: Callable[[TerminalProgress], None],
) -> None:
    with pytest.raises(KeyboardInterrupt), TerminalProgress(quiet=True) as progress:
        progress.start("stage", 3, "rows")
        _lose_an_interrupt()
        tell(progress)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_arrives_is_raised_at_once_and_silence_raises_nothing() -> None:
    with Interrupt() as interrupt:
        interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_a_process_that_ignores_it_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt.check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
