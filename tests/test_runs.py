"""A run's folder: whole files, one owner, the same settings or a refusal."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from weft.errors import DamageError, ResourceError, UsageError
from weft.runs import Run, publish_folder, write_whole

SETTINGS = {"run": {"seed": {"value": 1, "origin": "flag"}}, "data": "a.jsonl"}


def test_a_run_is_continued_with_the_same_settings(tmp_path: Path) -> None:
    Run.create(tmp_path / "r", SETTINGS)
    again = Run.create(tmp_path / "r", {"run": {"seed": {"value": 1, "origin": "file x.yaml"}}, "data": "b.jsonl"})
    assert again.settings == SETTINGS


def test_a_run_with_other_settings_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    Run.create(tmp_path / "r", SETTINGS)
    with pytest.raises(UsageError, match=r"run\.seed\.value: 1 -> 2.*--out"):
        Run.create(tmp_path / "r", {"run": {"seed": {"value": 2, "origin": "flag"}}, "data": "a.jsonl"})


def test_a_folder_that_is_no_run_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a run folder"):
        Run.create(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match="not a run folder"):
        Run.open(tmp_path)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", SETTINGS)
    with run.locked(), pytest.raises(UsageError, match="another weft is working"), Run.open(tmp_path / "r").locked():
        pass


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_refused_write_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match=r"no permission to write here\. Name another folder with --out"):
        Run.create(tmp_path / "r", SETTINGS)


def test_a_published_folder_replaces_the_old_one_in_one_rename(tmp_path: Path) -> None:
    for name, text in (("adapter", "old"), (".new", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text(text)
    publish_folder(tmp_path / ".new", tmp_path / "adapter")
    assert (tmp_path / "adapter" / "w").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_metrics_of_steps_that_are_repeated_are_forgotten(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", SETTINGS)
    for step in (1, 2, 3):
        run.metric(step=step, loss=1 / step)
    with run.path("metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4, "lo')  # killed while writing
    run.forget_metrics_after(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", SETTINGS)
    run.path("report.json").write_text('{"half": ')
    with pytest.raises(DamageError, match=r"report\.json: unreadable"):
        run.read_json("report.json")


def test_events_are_kept_in_order(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", SETTINGS)
    run.event("looked", arm="tuned")
    run.event("trained", steps=3)
    lines = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["looked", "trained"]
