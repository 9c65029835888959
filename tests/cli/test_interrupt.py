"""Ctrl-C and SIGTERM end every command in a sentence, also where the exception was dropped on the way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.cli.interrupt import Interrupt, Terminated, terminable
from weft.cli.terminal import TerminalProgress

SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def _lose(number: signal.Signals) -> None:
    with contextlib.suppress(SIGNALS[number]):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("tell", [lambda progress: progress.advance(), lambda progress: progress.start("next")])
def test_a_signal_that_was_lost_is_raised_where_work_tells_of_itself(
    tell: Callable[[TerminalProgress], None], number: signal.Signals
) -> None:
    with pytest.raises(SIGNALS[number]), terminable(), TerminalProgress(quiet=True) as progress:
        progress.start("stage", 3, "rows")
        _lose(number)
        tell(progress)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_lost_in_the_last_stage_is_raised_at_its_end(number: signal.Signals) -> None:
    with pytest.raises(SIGNALS[number]), terminable(), TerminalProgress(quiet=True):
        _lose(number)
    with pytest.raises(ValueError, match="another"), terminable(), TerminalProgress(quiet=True):
        _lose(number)
        raise ValueError("another")


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


def test_one_that_handles_sigterm_itself_is_left_alone() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with terminable(), Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            interrupt.check()
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def _ends(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def _signals(number: signal.Signals) -> Callable[..., None]:
    return lambda *_, **__: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "weft: interrupted. "), (signal.SIGTERM, 143, "weft: told to stop (SIGTERM). ")],
)
def test_any_command_ends_in_a_sentence_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, number: signal.Signals, code: int, said: str
) -> None:
    monkeypatch.setattr("weft.data.read.scan", _signals(number))
    assert _ends("check", tmp_path / "a.jsonl", "--fix", tmp_path / "b.jsonl") == code
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", f"{said}Nothing half-done is kept.")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_verb_that_goes_on_says_so_and_lets_go_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, number: signal.Signals, code: int
) -> None:
    from weft.road import whole
    from weft.testing import save_base

    base = save_base(tmp_path / "tiny")
    data = tmp_path / "a.csv"
    words = ("kettle", "window", "parcel", "garden", "ticket", "lantern", "bridge", "copper", "violin", "meadow")
    asked = (f"{words[n % 10]} {words[n // 10 % 10]} {n * n}" for n in range(140))
    data.write_text("text,label\n" + "".join(f"{text},{'xy'[n % 2]}\n" for n, text in enumerate(asked)))
    command = ("run", data, "--base", base, "--out", tmp_path / "r")
    monkeypatch.setattr(whole, "measure_arms", _signals(number))
    assert _ends(*command) == code
    assert "Nothing half-done is kept; the same command goes on from here." in capsys.readouterr().err
    reached = []
    monkeypatch.setattr(whole, "measure_arms", lambda *_: reached.append(1) or _signals(number)())
    assert _ends(*command) == code  # the folder is free again, and the road goes on where it stood
    assert reached == [1] and not (tmp_path / "r/report.json").exists()
