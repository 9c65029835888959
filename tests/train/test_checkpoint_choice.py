"""A damaged checkpoint is passed over for the one before, said aloud, and the training ends in the same bytes (T22)."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.small import published, train
from weft.errors import DamageError, Stopped
from weft.runs import Run
from weft.train import checkpoint, steps
from weft.train.checkpoint_choice import choose, set_aside
from weft.train.stop import Stop


def _flip(path: Path, place: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


HURTS: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: _flip(folder / checkpoint.TENSORS),
    "a shorter file": lambda folder: (folder / checkpoint.TENSORS).write_bytes(b"x"),
    "no tensors": lambda folder: (folder / checkpoint.TENSORS).unlink(),
    "a changed manifest": lambda folder: _flip(folder / checkpoint.MANIFEST, 20),
    "no manifest": lambda folder: (folder / checkpoint.MANIFEST).unlink(),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / checkpoint.folder_name(step), {"a": torch.full((50,), float(step))}, {"step": step})
    return tmp_path


def test_where_nothing_is_damaged_the_newest_is_chosen(three: Path, tmp_path: Path) -> None:
    chosen = choose(three)
    assert chosen is not None and chosen.damaged == {}
    assert (chosen.step, chosen.state, float(chosen.tensors["a"][0])) == (3, {"step": 3}, 3.0)
    assert choose(tmp_path / "nowhere") is None


@pytest.mark.parametrize("hurt", HURTS)
def test_damaged_ones_are_passed_over_and_named_and_nothing_is_touched(three: Path, hurt: str) -> None:
    for damaged, left in ((3, 2), (2, 1)):
        HURTS[hurt](three / checkpoint.folder_name(damaged))
        before = sorted(three.rglob("*"))
        chosen = choose(three)
        assert chosen is not None and (chosen.step, float(chosen.tensors["a"][0])) == (left, float(left))
        assert [folder.name for folder in chosen.damaged] == [checkpoint.folder_name(n) for n in range(3, left, -1)]
        assert all(folder.name in reason for folder, reason in chosen.damaged.items())
        assert sorted(three.rglob("*")) == before


def test_whichever_byte_is_flipped_the_one_before_is_chosen(three: Path) -> None:
    draw = random.Random(0)
    for name in (checkpoint.TENSORS, checkpoint.MANIFEST):
        path = three / checkpoint.folder_name(3) / name
        whole = path.read_bytes()
        for _ in range(50):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            chosen = choose(three)
            assert chosen is not None and chosen.step == 2
        path.write_bytes(whole)


def test_where_all_are_damaged_it_is_refused_each_time_and_all_are_named(three: Path) -> None:
    for folder in checkpoint.named(three):
        HURTS["a flipped bit"](folder)
    for _ in range(2):
        with pytest.raises(
            DamageError, match=r"every checkpoint is damaged, 3 of 3.*\n(?s:.*)delete this folder"
        ) as told:
            choose(three)
        assert all(folder.name in str(told.value) for folder in checkpoint.named(three))


def test_another_format_is_refused_and_not_passed_over(three: Path) -> None:
    manifest = three / checkpoint.folder_name(3) / checkpoint.MANIFEST
    manifest.write_text(checkpoint._signed({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(checkpoint.OtherFormat, match="checkpoint format 2, expected 1"):
        choose(three)


def test_what_is_set_aside_is_never_chosen_and_takes_the_place_of_an_earlier_one(three: Path) -> None:
    newest = three / checkpoint.folder_name(3)
    aside = set_aside(newest)
    chosen = choose(three)
    assert aside.name == "step-00000003.damaged" and (aside / checkpoint.TENSORS).is_file()
    assert chosen is not None and (chosen.step, chosen.damaged) == (2, {})
    checkpoint.save(newest, {"a": torch.zeros(1)}, {"step": 3, "again": True})
    assert set_aside(newest) == aside and "again" in (aside / checkpoint.MANIFEST).read_text()
    assert checkpoint.rotate(three, keep=2) == [] and aside.exists()


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after step 5 of 8, with the checkpoints of steps 4 and 5."""
    torch.set_num_threads(1)
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    stop, update = Stop(), steps.Steps.update

    def ends(self: steps.Steps, *args: object, **named: object) -> None:
        update(self, *args, **named)  # type: ignore[arg-type]
        if self.state.step == 5:
            stop.order()

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(steps.Steps, "update", ends)
        train(tmp_path / "cut", keep_epochs=2, stop=stop)
    return tmp_path / "cut"


@pytest.mark.parametrize("hurt", ["a flipped bit", "no manifest"])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_in_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, stopped: Path, hurt: str
) -> None:
    whole, _ = train(tmp_path / "whole", keep_epochs=2)
    HURTS[hurt](stopped / "checkpoints/step-00000005")
    run, _ = train(stopped, keep_epochs=2)
    assert published(run) == published(whole) and run.metrics() == whole.metrics()
    events = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "warning"]
    assert [event["message"] for event in told] == [
        "What was saved at step 5 is damaged and was set aside; training goes on from step 4, and its result is the "
        "same. Look after the disk."
    ]
    assert "step-00000005" in told[0]["reason"]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [4]
    assert run.has("checkpoints/step-00000005.damaged")


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_until_they_are_deleted(
    tmp_path: Path, stopped: Path
) -> None:
    for folder in checkpoint.named(stopped / "checkpoints"):
        HURTS["a flipped bit"](folder)
    for _ in range(2):
        with pytest.raises(DamageError, match="every checkpoint is damaged, 2 of 2"):
            train(stopped, keep_epochs=2)
    assert not Run.open(stopped).has("adapter")
    shutil.rmtree(stopped / "checkpoints")  # as the message says
    whole, _ = train(tmp_path / "whole", keep_epochs=2)
    run, _ = train(stopped, keep_epochs=2)
    assert published(run) == published(whole) and run.metrics() == whole.metrics()
