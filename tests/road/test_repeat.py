"""The same run again, after whatever befell it: kill -9, Ctrl-C in any stage, a full disk. Same bytes, same figures."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.cli.terminal import TerminalProgress
from weft.train import steps

FLAGS = ["--learning-rate", "3e-3", "--batch-size", "4", "--epochs", "3", "--lora-r", "4", "--patience", "9"]
CHILD = """
import os, sys, torch
torch.set_num_threads(1)
os.chdir(folder)
for stream in (sys.stdout, sys.stderr):
    os.dup2(os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
from weft.cli import main
from weft.train import steps
steps.SAVE_SECONDS = 0.0
main(arguments)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny: str, topics: Any, write_json: Any) -> Path:
    """A working folder with data.jsonl and the finished run `r`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_json(folder / "data.jsonl", topics(80))
    assert _weft(folder, *_run(tiny)) == 0
    return folder


@pytest.fixture
def again(tmp_path: Path, undisturbed: Path) -> Path:
    """Another working folder with the same data."""
    (tmp_path / "data.jsonl").write_bytes((undisturbed / "data.jsonl").read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., multiprocessing.Process]]:
    """Starts `weft` as a process of its own; what is slow to import is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["weft.road.whole", "sklearn.linear_model", "matplotlib.pyplot", "scipy.stats"])
    children: list[Any] = []

    def run(folder: Path, *arguments: str) -> Any:
        child = context.Process(target=exec, args=(CHILD, {"folder": str(folder), "arguments": list(arguments)}))
        child.start()
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.join()


def _run(tiny: str, verb: str = "run") -> list[str]:
    return [verb, "data.jsonl", "--base", tiny, "--out", "r", *FLAGS]


def _weft(folder: Path, *arguments: str) -> int:
    before = Path.cwd()
    os.chdir(folder)
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        os.chdir(before)
    raise AssertionError("weft did not exit")


def _adapter(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((folder / "r/adapter").iterdir())}


def _report(folder: Path) -> Any:
    return json.loads((folder / "r/report.json").read_text())


def _steps(folder: Path) -> list[int]:
    path = folder / "r/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if '"loss"' in line and line.endswith("}")]


def _until(happened: Callable[[], bool], child: Any) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert child.is_alive() and time.monotonic() < deadline, "the child ended before it could be stopped"
        time.sleep(0.002)


def _same(folder: Path, other: Path, figures: Any) -> None:
    assert _adapter(folder) == _adapter(other)
    one, two = figures(_report(folder)), figures(_report(other))
    # A run that is continued by its folder finds its data by the whole path.
    assert Path(one["data"].pop("path")).name == Path(two["data"].pop("path")).name
    assert one == two
    assert _steps(folder) == list(range(1, _report(folder)["training"]["steps"] + 1))
    assert not [path for path in (folder / "r").rglob("*") if path.name.endswith((".tmp", ".part", ".old"))]


def test_the_same_seed_gives_the_same_adapter_and_the_same_figures(
    again: Path, undisturbed: Path, tiny: str, figures: Any
) -> None:
    assert _weft(again, *_run(tiny)) == 0
    _same(again, undisturbed, figures)


def test_a_run_killed_anywhere_ends_as_if_nothing_had_happened(
    again: Path, undisturbed: Path, tiny: str, figures: Any, start: Any
) -> None:
    draw = random.Random(os.urandom(8))
    last = _report(undisturbed)["training"]["steps"]
    first = draw.randrange(1, last // 2)
    moments: list[Callable[[], bool]] = [
        (again / "r/scorecards/zero-shot.test.json").exists,
        lambda: len(_steps(again)) >= first,
        lambda: len(_steps(again)) >= first + 5,
    ]
    for moment in moments:
        child = start(again, *_run(tiny))
        _until(moment, child)
        time.sleep(draw.random() / 50)
        child.kill()
        child.join()
        assert not (again / "r/report.json").exists()
    assert _weft(again, "run", "r") == 0
    events = [json.loads(line) for line in (again / "r/events.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "resumed" and event["step"] > 0]
    _same(again, undisturbed, figures)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_training_killed_at_random_times_ends_in_the_same_adapter(
    again: Path, undisturbed: Path, tiny: str, seed: int
) -> None:
    draw = random.Random(seed)
    program = (
        "from weft.train import steps; steps.SAVE_SECONDS = 0.0; "
        f"from weft.cli import main; main({_run(tiny, 'train')})"
    )
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", program], cwd=again, stderr=subprocess.DEVNULL)
        try:
            assert child.wait(timeout=3 + 4 * draw.random()) == 0
            break
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    else:
        assert _weft(again, *_run(tiny, "train")) == 0
    assert _adapter(again) == _adapter(undisturbed)
    assert _steps(again) == _steps(undisturbed)


def test_ctrl_c_ends_a_process_with_130_and_a_sentence(
    again: Path, undisturbed: Path, tiny: str, figures: Any, start: Any
) -> None:
    child = start(again, *_run(tiny))
    _until(lambda: len(_steps(again)) >= 2, child)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    said = (again / "said.txt").read_text()
    assert child.exitcode == 130
    assert "weft: interrupted" in said and "Traceback" not in said
    assert _weft(again, *_run(tiny)) == 0
    _same(again, undisturbed, figures)


def test_ctrl_c_in_any_stage_leaves_a_run_that_goes_on(
    again: Path, undisturbed: Path, tiny: str, figures: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    begin, advance = TerminalProgress.start, TerminalProgress.advance
    stopped: set[tuple[str, str]] = set()

    def interrupt(where: str, stage: str) -> None:
        if (where, stage) not in stopped:
            stopped.add((where, stage))
            raise KeyboardInterrupt

    def starts(self: Any, stage: str, *rest: Any, **named: Any) -> None:
        begin(self, stage, *rest, **named)
        interrupt("start", stage)

    def advances(self: Any, *rest: Any, **named: Any) -> None:
        advance(self, *rest, **named)
        interrupt("advance", self._stage)

    monkeypatch.setattr(TerminalProgress, "start", starts)
    monkeypatch.setattr(TerminalProgress, "advance", advances)
    codes = [_weft(again, *_run(tiny))]
    while codes[-1] != 0 and len(codes) < 40:
        codes.append(_weft(again, *_run(tiny)))
    assert codes[-1] == 0 and set(codes[:-1]) == {130} and len(codes) == len(stopped) + 1
    stages = {stage for _, stage in stopped}
    assert {"load the base", "read and check", "zero-shot on test", "prompted on validation", "prompted on test",
            "few-shot on validation", "few-shot on test", "train", "tuned on test"} <= stages  # fmt: skip
    assert capfd.readouterr().err.count("weft: interrupted") == len(stopped)
    _same(again, undisturbed, figures)


def test_a_disk_that_fills_up_anywhere_leaves_a_run_that_goes_on(
    again: Path, undisturbed: Path, tiny: str, figures: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    fsync, count, limit = os.fsync, 0, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    for limit in (0, 3, 4, 5, 6):  # noqa: B007  read by `full`
        count = 0
        assert _weft(again, *_run(tiny)) == 3
    monkeypatch.setattr(os, "fsync", fsync)
    said = capfd.readouterr().err
    assert said.count("the disk is full. Free some space and repeat the command: it continues.") == 5
    assert "Traceback" not in said
    assert _weft(again, *_run(tiny)) == 0
    _same(again, undisturbed, figures)


def test_a_full_disk_under_the_tensors_is_explained_as_well(
    again: Path, tiny: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from safetensors import SafetensorError

    from weft.train import checkpoint

    def full(*_: Any, **__: Any) -> None:
        # What safetensors 0.7 says on a full tmpfs.
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save_file", full)
    assert _weft(again, *_run(tiny, "train")) == 3
    assert "the disk is full" in capfd.readouterr().err


def test_a_finished_run_is_shown_and_not_repeated(undisturbed: Path, tiny: str, capfd: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "r").rglob("*[a-z]") if path.name != ".lock"}
    assert _weft(undisturbed, *_run(tiny), "--json") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == _report(undisturbed)
    assert "this run is finished" in shown.err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_finished_run_is_shown_without_its_data_and_base(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    import shutil

    shutil.copytree(undisturbed / "r", tmp_path / "r")
    settings = json.loads((tmp_path / "r/settings.json").read_text())
    settings["data"], settings["run"]["base"]["value"] = "/gone.jsonl", "/gone"
    (tmp_path / "r/settings.json").write_text(json.dumps(settings))
    assert _weft(tmp_path, "run", "r", "--json") == 0
    assert json.loads(capfd.readouterr().out)["verdict"] == _report(undisturbed)["verdict"]
    assert _weft(tmp_path, "run", "r", "--seed", "5") == 2
    assert _weft(tmp_path, "run", "r", "--config", "x.yaml") == 2
    assert "Leave out --config and --out" in capfd.readouterr().err


def test_a_kill_before_the_settings_stood_does_not_spoil_the_folder(again: Path, tiny: str) -> None:
    (again / "r").mkdir()
    (again / "r/.settings.json.4711.tmp").write_bytes(b'{"data"')
    assert _weft(again, *_run(tiny, "train")) == 0


def test_what_a_kill_left_half_written_is_swept_away(again: Path, tiny: str) -> None:
    assert _weft(again, *_run(tiny, "train")) == 0
    left = [".training.json.4711.tmp", "scorecards/.tuned.test.json.4711.tmp", ".adapter.4711.tmp/adapter_config.json",
            "checkpoints/.step-00000007.0a1b2c3d.part/tensors.safetensors"]  # fmt: skip
    (again / "r/training.json").unlink()
    for name in left:
        (again / "r" / name).parent.mkdir(parents=True, exist_ok=True)
        (again / "r" / name).write_bytes(b"half")
    assert _weft(again, *_run(tiny, "train")) == 0
    assert not [name for name in left if (again / "r" / name).exists()]


def test_two_wefts_do_not_work_on_one_run(again: Path, undisturbed: Path, tiny: str, start: Any, capfd: Any) -> None:
    child = start(again, *_run(tiny))
    _until(lambda: (again / "r/scorecards").exists(), child)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        assert _weft(again, *_run(tiny)) == 2
    finally:
        child.kill()
    assert "another weft is working on this run" in capfd.readouterr().err
