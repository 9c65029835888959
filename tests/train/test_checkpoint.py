"""Checkpoints: whole or absent, checked when read, never deleted before their successor is there."""

from __future__ import annotations

import itertools
import json
import os
import random

import numpy
import pytest
import torch
from safetensors.torch import save as serialized

from weft.errors import DamageError
from weft.train import checkpoint
from weft.train.checkpoint_choice import choose


@pytest.fixture
def tensors():
    return {
        "a": torch.arange(12.0).view(3, 4),
        "b": torch.tensor([1, 2], dtype=torch.int64),
        "c": torch.ones(2, dtype=torch.bfloat16),
    }


def test_what_is_saved_comes_back(tmp_path, tensors):
    folder = tmp_path / checkpoint.folder_name(7)
    checkpoint.save(folder, tensors, {"step": 7, "data": "abc"})
    read, state = checkpoint.load(folder)
    assert state == {"step": 7, "data": "abc"}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], tensors[k]) and read[k].dtype == tensors[k].dtype for k in tensors)


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    tied = torch.ones(3)
    checkpoint.save(tmp_path / "step-1", {"x": tied, "y": tied}, {})
    assert checkpoint.load(tmp_path / "step-1")[0].keys() == {"x", "y"}


def test_one_damaged_byte_is_found(tmp_path, tensors):
    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {})
    data = bytearray((folder / checkpoint.TENSORS).read_bytes())
    data[-3] ^= 1
    (folder / checkpoint.TENSORS).write_bytes(data)
    with pytest.raises(DamageError, match="SHA-256 is not the one of the manifest"):
        checkpoint.load(folder)


def test_a_missing_file_is_named(tmp_path, tensors):
    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {})
    (folder / checkpoint.TENSORS).unlink()
    with pytest.raises(DamageError, match=r"tensors\.safetensors: missing, expected \d+ bytes"):
        checkpoint.load(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "state": {}, "files": []}'])
def test_an_unreadable_manifest_is_damage(tmp_path, tensors, text):
    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {})
    (folder / checkpoint.MANIFEST).write_text(text)
    with pytest.raises(DamageError, match="no readable manifest"):
        checkpoint.load(folder)


def test_another_format_is_refused(tmp_path, tensors):
    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {})
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    (folder / checkpoint.MANIFEST).write_text(checkpoint._signed({**manifest, "format": 9}))
    with pytest.raises(checkpoint.OtherFormat, match="checkpoint format 9, expected 1"):
        checkpoint.load(folder)
    (folder / checkpoint.MANIFEST).write_text(json.dumps({**manifest, "format": 9}))  # not written by anybody: damage
    with pytest.raises(DamageError, match=r"no readable manifest.*its own SHA-256 is another"):
        checkpoint.load(folder)


def test_bytes_that_hash_well_but_are_no_safetensors_are_damage(tmp_path, tensors):
    import hashlib

    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {})
    (folder / checkpoint.TENSORS).write_bytes(b"not tensors")
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    manifest["files"][checkpoint.TENSORS] = {"bytes": 11, "sha256": hashlib.sha256(b"not tensors").hexdigest()}
    (folder / checkpoint.MANIFEST).write_text(checkpoint._signed(manifest))
    with pytest.raises(DamageError, match=r"tensors.safetensors: (?!.*SHA).*Go on from an earlier checkpoint"):
        checkpoint.load(folder)


def test_a_half_written_checkpoint_is_never_chosen(tmp_path, tensors, monkeypatch):
    checkpoint.save(tmp_path / checkpoint.folder_name(1), tensors, {"step": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / checkpoint.folder_name(2), tensors, {"step": 2})
    monkeypatch.undo()
    (tmp_path / ".step-00000003.deadbeef.part").mkdir()  # what kill -9 leaves behind
    (tmp_path / "step-00000003.damaged").mkdir()  # what was set aside
    (tmp_path / checkpoint.folder_name(4)).mkdir()  # a folder without a manifest is none
    assert checkpoint.latest(tmp_path) == tmp_path / checkpoint.folder_name(1)


def test_latest_goes_by_step_and_not_by_name(tmp_path, tensors):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    for step in (9, 100_000_000, 10):
        checkpoint.save(tmp_path / checkpoint.folder_name(step), tensors, {})
    assert checkpoint.latest(tmp_path) == tmp_path / checkpoint.folder_name(100_000_000)


def test_rotation_keeps_the_newest(tmp_path, tensors):
    for step in range(1, 6):
        checkpoint.save(tmp_path / checkpoint.folder_name(step), tensors, {})
    (tmp_path / ".step-00000009.deadbeef.part").mkdir()
    gone = checkpoint.rotate(tmp_path, keep=2)
    assert [p.name for p in gone] == [checkpoint.folder_name(s) for s in (1, 2, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.folder_name(s) for s in (4, 5)]


def test_saving_the_same_step_again_replaces_it(tmp_path, tensors):
    folder = tmp_path / "step-1"
    checkpoint.save(folder, tensors, {"try": 1})
    checkpoint.save(folder, {"a": torch.zeros(1)}, {"try": 2})
    read, state = checkpoint.load(folder)
    assert state == {"try": 2} and read.keys() == {"a"}
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_random_states_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    draw()
    state = json.loads(json.dumps(checkpoint.random_state()))
    first = draw()
    draw()
    checkpoint.restore_random_state(state)
    assert draw() == first


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Muon])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path, kind):
    def steps(weight, optimizer, numbers):
        for n in numbers:
            optimizer.zero_grad()
            (weight * torch.linspace(0, n, 12).view(3, 4)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = kind([weight], lr=0.1)
    steps(weight, optimizer, [1, 2])
    checkpoint.save(tmp_path / "step-2", {"w": weight, **checkpoint.optimizer_tensors(optimizer, "opt")}, {})
    steps(weight, optimizer, [3, 4])
    read, _ = checkpoint.load(tmp_path / "step-2")
    again = torch.nn.Parameter(read["w"])
    other = kind([again], lr=0.1)
    checkpoint.restore_optimizer(other, read, "opt")
    steps(again, other, [3, 4])
    assert torch.equal(again, weight)


CALLS = {"fsync": 4, "rename": 2}
"""How often a save that drops an older checkpoint calls what."""
FAULTS: list[tuple[str, float]] = [
    *(("tensors", n / 32) for n in range(33)),  # that share of the file's bytes is written
    *(("manifest", n / 16) for n in range(17)),
    *(
        (f"{when} {name}", n)
        for name, last in CALLS.items()
        for n in range(1, last + 1)
        for when in ("before", "after")
    ),
    ("within rmtree", 1),
]


def _dying(folder, fault, place):
    """In a process of its own: save step 2, drop step 1, and die at the fault without cleaning up."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def torn(path, content):
        path.write_bytes(content[: int(len(content) * place)])
        os._exit(9)

    def dying(when, function):
        calls = itertools.count(1)

        def call(*args):
            due = next(calls) == place
            if due and when == "within":
                next(args[0].iterdir()).unlink()
            if due and when != "after":
                os._exit(9)
            function(*args)
            if due:
                os._exit(9)

        return call

    try:
        if fault == "tensors":
            owner, name, call = checkpoint, "save_file", lambda tensors, path: torn(path, serialized(tensors))
        elif fault == "manifest":
            owner, name, call = checkpoint.Path, "write_text", lambda path, text, _: torn(path, text.encode())
        else:
            when, name = fault.split()
            owner = checkpoint.shutil if name == "rmtree" else os
            call = dying(when, getattr(owner, name))
        setattr(owner, name, call)
        checkpoint.save(folder / "step-2", {"a": torch.full((50,), 2.0)}, {"step": 2})
        checkpoint.rotate(folder, keep=1)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_anywhere_in_a_save_leaves_a_whole_checkpoint_and_never_a_half_one(tmp_path):
    """T22: at 50 places in what is written, and around all that follows."""
    for number, (fault, place) in enumerate(FAULTS):
        root = tmp_path / str(number)
        checkpoint.save(root / "step-1", {"a": torch.full((50,), 1.0)}, {"step": 1})
        assert _dying(root, fault, place) == 9, (fault, place)
        chosen = choose(root)
        assert chosen is not None and chosen.damaged == {}, (fault, place)
        assert chosen.state == {"step": chosen.step}
        assert torch.equal(chosen.tensors["a"], torch.full((50,), float(chosen.step)))
        checkpoint.rotate(root, keep=1)
        assert [path.name for path in root.iterdir()] == [f"step-{chosen.step}"]  # what the kill left is swept away


def test_a_save_has_no_more_calls_than_are_killed_at(tmp_path):
    for name, last in CALLS.items():
        checkpoint.save(tmp_path / name / "step-1", {"a": torch.ones(1)}, {"step": 1})
        assert _dying(tmp_path / name, f"before {name}", last + 1) == 0


def test_every_flipped_byte_is_found(tmp_path, tensors):
    folder, draw = tmp_path / "step-1", random.Random(0)
    checkpoint.save(folder, tensors, {"step": 7, "random": {"torch": "00" * 100}, "name": "naïve", "loss": 1e-05})
    for name in (checkpoint.TENSORS, checkpoint.MANIFEST):
        whole = (folder / name).read_bytes()
        for _ in range(50):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(damaged)
            with pytest.raises(DamageError, match="step-1"):
                checkpoint.load(folder)
        (folder / name).write_bytes(whole)
    assert checkpoint.load(folder)[1]["step"] == 7
