"""Whatever befalls a training: the bytes of an undisturbed one, or the reason why not (T17, T18, T20, T21, T24)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save as serialized

from tests.train.small import published, train
from weft.cli import main
from weft.errors import ResourceError, Stopped, TrainError
from weft.progress import Silent
from weft.records import Tokens
from weft.runs import Run
from weft.train import checkpoint, likelihood, sft, steps
from weft.train.batches import micro_batches
from weft.train.mix import Mix
from weft.train.stop import Stop


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)  # a checkpoint after every step


class Killed(BaseException):
    """Stands for the end of a process: nothing but `finally` sees it."""


@contextlib.contextmanager
def _killed(owner: Any, name: str, call: int) -> Iterator[None]:
    """What is inside ends, as a process does, when the function `name` of `owner` is called for the `call`th time."""
    function, calls = getattr(owner, name), itertools.count(1)

    def dies(*args: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return function(*args, **named)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, name, dies)
        yield


MOMENTS = {
    "mid-epoch": ("add_gradient", 2),  # in the second step of the first epoch
    "boundary": ("add_gradient", 4),  # after the first epoch, before anything of the second
    "in evaluation": ("look", 2),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_kill_at_any_kind_of_moment_changes_no_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    full: bool,
    accumulation: int,
    precision: str,
) -> None:
    """T17: six steps in two epochs, looked at after steps 2, 4 and 6; `accumulation`: forward passes of a step."""
    if accumulation > 1:
        monkeypatch.setattr(likelihood, "micro_batches", lambda model, rows, most: micro_batches(model, rows, 1))
    values = {"full": full, "precision": precision, "rows": 12, "validate_every": 2, "keep_epochs": 1}
    values |= {"learning_rate": 1e-3} if full else {"lora": {"r": 4, "dropout": 0.1}}
    whole, record = train(tmp_path / "whole", tiny_folder, **values)
    assert record.steps == 6
    for moment, (name, call) in MOMENTS.items():
        with _killed(sft, name, call):
            train(tmp_path / moment, tiny_folder, **values)
        again, _ = train(tmp_path / moment, tiny_folder, **values)
        assert published(again) == published(whole), moment
        assert again.metrics() == whole.metrics(), moment


@pytest.mark.parametrize("stop", [2, 5, 6])
def test_a_kill_changes_no_bit_of_the_last_step_either(tmp_path: Path, tiny_folder: Path, stop: int) -> None:
    """Looked at or not, with epochs kept; the kill comes with the checkpoint of the step `stop` of six."""
    values = {"publish": "last", "rows": 12, "keep_epochs": 2, "lora": {"r": 4, "dropout": 0.1}}
    for name, held_out in (("looked at", 4), ("alone", 0)):
        whole, record = train(tmp_path / name, tiny_folder, held_out=held_out, **values)
        assert (record.published_step, record.best_step is None) == (6, not held_out)
        with _killed(steps, "save", stop + 1) if stop < 6 else _killed(steps, "write_result", 1):
            train(tmp_path / f"{name} cut", tiny_folder, held_out=held_out, **values)
        again, _ = train(tmp_path / f"{name} cut", tiny_folder, held_out=held_out, **values)
        assert published(again) == published(whole)
        assert again.metrics() == whole.metrics()
        last = published(whole)["epochs/6/adapter/adapter_model.safetensors"]
        assert published(whole)["adapter/adapter_model.safetensors"] == last


PACKED = [
    pytest.param(*cell, marks=() if cell == (False, 1, "float32") else pytest.mark.slow)
    for cell in itertools.product([False, True], [1, 4], ["float32", "bfloat16"])
]


@pytest.mark.parametrize(("full", "accumulation", "precision"), PACKED)
def test_packs_of_documents_change_no_bit_either(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    full: bool,
    accumulation: int,
    precision: str,
) -> None:
    """T17, packed: 3 of 24 in the short form."""
    from weft.models.load import load
    from weft.testing import tiny_base
    from weft.train import pretrain
    from weft.train.pretrain import HeldOut
    from weft.train.pretrain_config import PretrainConfig

    packs = tuple(
        tuple(Tokens(tuple(range(n, n + 6 + k)), (False,) + (True,) * (5 + k)) for k in range(3)) for n in range(12)
    )
    if accumulation > 1:  # the twelve rows of a step in four parts
        monkeypatch.setattr(likelihood, "micro_batches", lambda model, rows, most: micro_batches(model, rows, 24))
    ready = {"epochs": 2, "max_tokens": 64, "validate_every": 2, "batch_size": 4, "precision": precision, "full": full}
    ready |= {"learning_rate": 1e-3} if full else {"learning_rate": 1e-2, "lora": {"r": 4, "dropout": 0.1}}
    settled = PretrainConfig.model_validate(ready)

    def adapted(folder: Path) -> Run:
        run = Run.create(folder, {"run": {}})
        base = load(str(tiny_folder)) if full else tiny_base()
        pretrain.train(run, base, Mix(packs[:9], packs[9:], 0.25), HeldOut(packs[0]), settled, Silent())
        return run

    whole = adapted(tmp_path / "whole")
    assert whole.metrics()[-1]["step"] == 6 and published(whole)
    for moment, (name, call) in MOMENTS.items():
        with _killed(pretrain, name, call):
            adapted(tmp_path / moment)
        again = adapted(tmp_path / moment)
        assert published(again) == published(whole) and again.metrics() == whole.metrics(), moment


@pytest.mark.parametrize(
    ("rows", "epochs"), [(20, 3), pytest.param(80, 3, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_stopped_after_every_single_step_the_same_examples_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, epochs: int
) -> None:
    """T18: 15 steps in the short form, 60 in the long one."""
    seen: list[list[Tokens]] = []
    add = sft.add_gradient

    def noted(base: Any, given: Any, *rest: Any) -> Any:
        seen.append(list(given))
        return add(base, given, *rest)

    monkeypatch.setattr(sft, "add_gradient", noted)
    whole, record = train(tmp_path / "whole", rows=rows, epochs=epochs, patience=99)
    undisturbed = list(seen)
    seen.clear()
    assert record.steps == len(undisturbed) == rows // 4 * epochs
    for _ in range(record.steps):
        stop = Stop()
        with monkeypatch.context() as patched:
            update = steps.Steps.update
            patched.setattr(steps.Steps, "update", lambda *a, u=update, s=stop, **n: (u(*a, **n), s.order()))
            try:
                train(tmp_path / "cut", rows=rows, epochs=epochs, patience=99, stop=stop)
            except Stopped:
                continue
    cut = Run.open(tmp_path / "cut")
    assert seen == undisturbed
    assert published(cut) == published(whole) and cut.metrics() == whole.metrics()


@pytest.mark.parametrize("step", [1, 5, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in range(9, 26))])
def test_a_gradient_that_is_not_finite_is_named_and_never_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """T20: 3 steps in the short form, 20 in the long one."""
    epochs = 2 if step <= 8 else 7
    whole, _ = train(tmp_path / "whole", epochs=epochs, patience=99)
    learned, calls = likelihood.learned_tokens, itertools.count(1)

    def poisoned(model: Any, rows: Any, means: bool = False) -> Any:
        given = learned(model, rows, means)
        if model.training and next(calls) == step:
            given.logprobs.register_hook(lambda gradient: gradient * math.nan)  # the loss itself is fine
        return given

    with monkeypatch.context() as patched:
        patched.setattr(likelihood, "learned_tokens", poisoned)
        with pytest.raises(TrainError, match=rf"step {step}: loss \d+\.\d+, gradient norm nan; expected finite"):
            train(tmp_path / "cut", epochs=epochs, patience=99)
    run = Run.open(tmp_path / "cut")
    assert not run.has("adapter")
    kept = checkpoint.named(run.path("checkpoints"))
    assert [checkpoint.step_of(folder) for folder in kept][-1:] == [step - 1][: step - 1]
    for folder in kept:
        tensors, _ = checkpoint.load(folder)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    run, _ = train(tmp_path / "cut", epochs=epochs, patience=99)
    assert published(run) == published(whole) and run.metrics() == whole.metrics()


FULL: list[tuple[str, float]] = [
    *(("tensors", n / 8) for n in range(8)),  # so much of the file's bytes is on the disk when it is full
    *(("manifest", n / 5) for n in range(5)),
    ("mkdir", 2),  # the call of this number since the save began; the first finds the folder of checkpoints there
    *(("fsync", n) for n in (1, 2, 3, 4)),  # tensors, manifest, their folder, the folder of checkpoints
    *(("rename", n) for n in (1, 2)),  # the new one's to its name, the oldest one's to be deleted
]
SHORT = {("tensors", 4 / 8), ("manifest", 2 / 5), ("rename", 1), ("fsync", 4)}
RENAMED = {("fsync", 4), ("rename", 2)}
"""Where the new checkpoint has its name already."""


@contextlib.contextmanager
def _full_at_the_third_save(event: str, place: float) -> Iterator[None]:
    """Inside, the third save meets a full disk there and writes what comes before."""
    save, saves = checkpoint.save, itertools.count(1)

    def refused() -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def part(path: Path, content: bytes) -> None:
        path.write_bytes(content[: int(len(content) * place)])

    def tensors_torn(tensors: Any, path: Path) -> None:
        part(path, serialized(tensors))
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def manifest_torn(path: Path, text: str, _: str) -> None:
        part(path, text.encode())
        raise refused()

    def third(*args: Any) -> None:
        if next(saves) == 3:
            if event == "tensors":
                patched.setattr(checkpoint, "save_file", tensors_torn)
            elif event == "manifest":
                patched.setattr(Path, "write_text", manifest_torn)
            else:
                function, calls = getattr(os, event), itertools.count(1)

                def called(*args: Any) -> Any:
                    if next(calls) == place:
                        raise refused()
                    return function(*args)

                patched.setattr(os, event, called)
        save(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "save", third)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("undisturbed") / "whole")[0]


@pytest.mark.parametrize(
    ("event", "place"), [pytest.param(*at, marks=() if at in SHORT else pytest.mark.slow) for at in FULL]
)
def test_a_disk_that_is_full_in_the_middle_of_a_save_leaves_the_one_before(
    tmp_path: Path, undisturbed: Run, event: str, place: float
) -> None:
    """T21: 4 offsets in the short form, 20 in the long one."""
    told = r"the disk is full.*it continues\. A checkpoint .* about [\d,]+ bytes"
    with _full_at_the_third_save(event, place), pytest.raises(ResourceError, match=told):
        train(tmp_path / "cut")
    root, newest = tmp_path / "cut/checkpoints", 3 if (event, place) in RENAMED else 2
    assert sorted(path.name for path in root.iterdir()) == [checkpoint.folder_name(n + 1) for n in range(newest)]
    for step in (2, newest):
        assert checkpoint.load(root / checkpoint.folder_name(step))[1]["step"] == step
    run, _ = train(tmp_path / "cut")
    assert published(run) == published(undisturbed) and run.metrics() == undisturbed.metrics()


def test_the_size_that_a_full_disk_is_told_with_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        write(tensors, path)
        sizes.append(path.stat().st_size)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError) as told:
        train(tmp_path / "r")
    said = int(str(told.value).split("about ")[1].split(" bytes")[0].replace(",", ""))
    assert 0.8 * sizes[0] <= said <= sizes[0]


CHANGES: dict[str, tuple[Callable[[Path], None], list[str], int, str]] = {
    "data": (lambda at: _append(at / "d.jsonl", '{"prompt": "new", "completion": "a9"}\n'), [], 2, "data_sha256"),
    "base": (lambda at: _flip(at / "base/model.safetensors"), [], 2, "base_sha256"),
    "tokenizer": (lambda at: _append(at / "base/tokenizer.json", "\n"), [], 2, "base_sha256"),
    "template": (lambda at: _append(at / "base/chat_template.jinja", "\n"), [], 2, "base_sha256"),
    "settings": (lambda at: None, ["--weight-decay", "0.1"], 2, "weight_decay"),
    "format": (lambda at: _later(at / "r/checkpoints/step-00000003/manifest.json"), [], 3, "format 9"),
}


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _later(manifest: Path) -> None:
    """As a later version of weft would have written it."""
    manifest.write_text(checkpoint._signed({**json.loads(manifest.read_text()), "format": 9}))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with data, base and a run that was stopped after step 3."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(tiny_folder, folder / "base")
    rows = [{"prompt": f"say {n}", "completion": f"{'ab'[n % 2]}{n}"} for n in range(60)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(steps, "SAVE_SECONDS", 0.0)
        update = steps.Steps.update

        def ends(self: Any, *args: Any, **named: Any) -> None:
            update(self, *args, **named)
            if self.state.step == 3:
                self._stop.order()

        patched.setattr(steps.Steps, "update", ends)
        assert _weft() == 143
    return folder


def _weft(*more: str) -> int:
    flags = ["--base", "base", "--out", "r", "--batch-size", "8", "--epochs", "2", "--lora-r", "4", *more]
    with pytest.raises(SystemExit) as ended:
        main(["train", "d.jsonl", *flags])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_with_something_else(
    tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], change: str
) -> None:
    """T24."""
    act, more, code, named = CHANGES[change]
    shutil.copytree(stopped, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    act(tmp_path / "w")
    assert _weft(*more) == code
    said = capfd.readouterr().err
    assert named in said and "Traceback" not in said
    assert not (tmp_path / "w/r/adapter").exists()


def test_the_stopped_run_goes_on_where_nothing_was_changed(
    tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stopped, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    assert _weft() == 0
    assert (tmp_path / "w/r/adapter").exists()
