"""Told to stop, a training saves between steps and leaves; the same command goes on and repeats no step (T23)."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import config, examples, published, train
from weft.cli import main
from weft.errors import Stopped
from weft.models import lora_files
from weft.progress import Silent
from weft.road import tune
from weft.runs import Run, publish_folder
from weft.settings import Resolved
from weft.testing import tiny_base
from weft.train import crew, steps
from weft.train.stop import Stop, by_terminate


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _after(step: int, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do `act` while step number `step` is being done."""
    update = steps.Steps.update

    def watched(self: Any, *args: Any, **named: Any) -> None:
        update(self, *args, **named)
        if self.state.step == step:
            act()

    monkeypatch.setattr(steps.Steps, "update", watched)


def _saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def _events(run: Run, kind: str) -> list[int]:
    events = map(json.loads, run.path("events.jsonl").read_text().splitlines())
    return [event["step"] for event in events if event["event"] == kind]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_order_from_anywhere_costs_no_step_and_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, method: str
) -> None:
    values = {"full": method == "full", "learning_rate": 1e-3, "keep_epochs": 1}
    whole, _ = train(tmp_path / "whole", tiny_folder, **values)
    for step in (1, 4, 6):  # 4 ends an epoch, with a look at the validation loss
        stop = Stop()
        with monkeypatch.context() as patched:
            _after(step, stop.order, patched)
            with pytest.raises(
                Stopped, match=rf"told to stop, and stopped after step {step} of 8.*same command goes on"
            ):
                train(tmp_path / "cut", tiny_folder, stop=stop, **values)
        assert _saved(tmp_path / "cut")[-1] == f"step-{step:08d}"
        assert not (tmp_path / "cut/adapter").exists() and not (tmp_path / "cut/model").exists()
    cut, _ = train(tmp_path / "cut", tiny_folder, **values)
    assert _events(cut, "resumed") == _events(cut, "stopped") == [1, 4, 6]
    assert published(cut) == published(whole)
    assert cut.metrics() == whole.metrics()


def test_an_order_given_before_the_first_step_or_after_the_last_is_obeyed_and_needless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    stop.order()
    with pytest.raises(Stopped, match="stopped after step 0 of 8") as stopped:
        train(tmp_path / "r", stop=stop)
    assert stopped.value.exit_code == 143
    late = Stop()
    _after(8, late.order, monkeypatch)
    run, record = train(tmp_path / "r", stop=late)
    assert record.steps == 8 and run.has("adapter")


def test_sigterm_is_such_an_order_while_training_and_ends_the_process_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    _after(3, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Stopped, match="stopped after step 3 of 8"):
        train(tmp_path / "r")
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_than_the_main_one_can_train_though_it_hears_no_signal() -> None:
    heard: list[Any] = []

    def listen() -> None:
        with by_terminate(Stop()):
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_sigterm_to_all_processes_of_a_group_leaves_a_saved_run_and_nobody_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew.torch, "get_num_threads", lambda: 2)
    whole, _ = train(tmp_path / "whole")

    def to_all() -> None:
        children = multiprocessing.active_children()
        assert len(children) == 1
        for child in children:
            os.kill(child.pid or 0, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        _after(3, to_all, patched)
        started = time.monotonic()
        with pytest.raises(Stopped, match="stopped after step 3 of 8"):
            train(tmp_path / "cut")
        assert time.monotonic() - started < 30
    assert not multiprocessing.active_children()  # they are gone
    cut, _ = train(tmp_path / "cut")
    assert published(cut) == published(whole) and cut.metrics() == whole.metrics()


def _command(folder: Path, base: Path) -> list[str]:
    rows = [{"prompt": f"say {n}", "completion": f"{'ab'[n % 2]}{n}"} for n in range(60)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-2", "--lora-r", "4"]
    return ["train", str(folder / "d.jsonl"), "--base", str(base), "--out", str(folder / "r"), *flags]


def test_the_command_ends_with_143_and_a_sentence_and_goes_on_when_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = _command(tmp_path, tiny_folder)
    with monkeypatch.context() as patched:
        _after(5, lambda: os.kill(os.getpid(), signal.SIGTERM), patched)
        with pytest.raises(SystemExit) as ended:
            main(command)
    said = capfd.readouterr().err
    assert ended.value.code == 143
    assert "told to stop, and stopped after step 5 of" in said and "Traceback" not in said
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert _events(Run.open(tmp_path / "r"), "resumed") == [5]


def _with_the_last_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    update = steps.Steps.update

    def watched(self: Any, *args: Any, **named: Any) -> None:
        update(self, *args, **named)
        if self.state.step == self.total:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(steps.Steps, "update", watched)


def _while_publishing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all files of the result are written, and before they get their name."""

    def watched(*args: Any) -> None:
        os.kill(os.getpid(), number)
        publish_folder(*args)

    monkeypatch.setattr(lora_files, "publish_folder", watched)


@pytest.mark.parametrize("moment", [_with_the_last_step, _while_publishing])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_with_the_last_step_or_later_is_obeyed_and_leaves_all_of_the_result_or_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    capfd: pytest.CaptureFixture[str],
    moment: Any,
    number: int,
    code: int,
) -> None:
    command = _command(tmp_path, tiny_folder)
    with monkeypatch.context() as patched:
        moment(number, patched)
        assert _ends(command) == code
    said = capfd.readouterr().err
    assert "the same command goes on from here" in said and "Traceback" not in said
    run = Run.open(tmp_path / "r")
    before = {}
    if number == signal.SIGTERM:  # it waits until the result and its record stand
        assert json.loads(run.path("training.json").read_text())["result"] == "adapter"
        before = published(run)
        assert len(before) >= 2
    else:  # at once
        assert not run.has("adapter") and not run.has("training.json")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert _ends(command) == 0
    assert run.has("adapter") and published(run) == (before or published(run))
    lines = [line["step"] for line in run.metrics() if "validation_loss" not in line]
    assert lines == sorted(set(lines))


def test_who_brings_an_order_of_his_own_is_not_ended_by_a_late_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker of the server would, to tell that its job is done."""
    _with_the_last_step(signal.SIGTERM, monkeypatch)
    stop, settings = Stop(), Resolved(config(), dict.fromkeys(type(config()).model_fields, "test"))
    run = Run.create(tmp_path / "r", {"run": {}})
    record = tune.tune(run, tiny_base(), examples(16), examples(4, start=50), settings, Silent(), stop=stop)
    assert stop.ordered and record["steps"] == 8 and run.has("adapter")
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        stop.pass_on()
        Stop().pass_on()  # nobody ordered anything
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def _ends(command: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_sigterm_at_ten_random_moments_costs_no_step(tmp_path: Path, tiny_folder: Path) -> None:
    """T23, long form, on processes of their own: saved within 30 s, no step done twice, nobody left behind."""
    draw = random.Random(0)
    (tmp_path / "whole").mkdir()
    subprocess.run([sys.executable, "-m", "weft", *_command(tmp_path / "whole", tiny_folder)], check=True)
    whole = Run.open(tmp_path / "whole/r")
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        command = [sys.executable, "-m", "weft", *_command(folder, tiny_folder)]
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        after = draw.randrange(1, 14)
        while not ((folder / "r/metrics.jsonl").exists() and len(Run.open(folder / "r").metrics()) >= after):
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGTERM)
        asked = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - asked <= 30
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        run = Run.open(folder / "r")
        assert process.returncode == 143 and "Traceback" not in said
        if run.has("training.json"):  # the order came with the last step, or later
            assert published(run) == published(whole)
            continue
        done = max(line["step"] for line in run.metrics())
        assert _events(run, "stopped") == [done]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        assert _events(run, "resumed") == [done]
        assert published(run) == published(whole) and run.metrics() == whole.metrics()
