"""The tuning pass takes the fastest setting that computes the same, and keeps what it tried."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from benchmarks.peers.cell import Cell
from benchmarks.peers.settings import Setting, first, further
from benchmarks.peers.tune import Attempt, tune
from weft.errors import RunError

FP32, BF16 = Cell("S", "fp32", 256, "qv", 16), Cell("S", "bf16", 256, "qv", 16)
Seconds = Callable[[Setting], float]


def by(seconds: Seconds, loss: float = 9.0) -> Callable[[Setting, float], Attempt]:
    return lambda setting, limit: Attempt(seconds(setting), (loss,), 10.0)


def test_the_default_is_tried_first_and_changes_are_stacked_on_the_best_so_far() -> None:
    tuned = tune("trl", FP32, by(lambda s: 4.0 - 2 * s.onednn - 1 * s.allocator - 0.001 * (s.attention == "eager")))
    assert tuned.setting == Setting(onednn=True, allocator=True)  # a thousandth is noise
    assert list(tuned.tried)[:3] == ["fp32", "fp32 + oneDNN", "fp32 + oneDNN + allocator"]
    assert tuned.tried["fp32 + oneDNN + allocator"] == 1.0


def test_a_setting_that_computes_something_else_is_out() -> None:
    def attempt(setting: Setting, limit: float) -> Attempt:
        return Attempt(1.0 if setting.attention == "eager" else 2.0, (8.0 if setting.attention == "eager" else 9.0,), 1)

    tuned = tune("trl", FP32, attempt, truth=9.0)
    assert tuned.setting.attention == "sdpa"
    assert "another loss: 8.000000, expected 9.000000" in tuned.tried["fp32 + eager attention"]


def test_bf16_may_round_the_loss_and_packing_may_change_it() -> None:
    def attempt(setting: Setting, limit: float) -> Attempt:
        packed = setting.batching == "packed"
        return Attempt(0.5 if packed else 1.0, (5.0 if packed else 9.01 if setting.numbers != "fp32" else 9.0,), 1)

    tuned = tune("trl", BF16, attempt)
    assert tuned.setting.batching == "packed" and tuned.tried["bf16 weights"] == 1.0


def test_failures_and_slowness_are_told_with_their_reason_and_defaults_and_compilers_get_more_time() -> None:
    limits: dict[str, float] = {}

    def attempt(setting: Setting, limit: float) -> Attempt:
        limits[str(setting)] = limit
        if setting.batching == "packed":
            raise TimeoutError("no answer within 180 s")
        if setting.allocator:
            raise RunError("trl: its process ended (exit -9).")
        return Attempt(1.0, (9.0,), 50.0)

    tuned = tune("trl", FP32, attempt)
    assert tuned.setting == Setting()
    assert tuned.tried["fp32 + packed"] == "no answer within 180 s"
    assert "process ended" in tuned.tried["fp32 + allocator"]
    assert limits["fp32"] == 900.0
    assert limits["fp32 + packed"] == 300.0
    if shutil.which("g++"):
        assert limits["fp32 + compile"] == 900.0


def test_a_peer_without_its_default_cannot_be_measured() -> None:
    def attempt(setting: Setting, limit: float) -> Attempt:
        raise RunError("no memory")

    with pytest.raises(RunError, match=r"trl, S fp32, prefix 256.*the default setting failed: no memory"):
        tune("trl", FP32, attempt)
    with pytest.raises(RunError, match=r"no setting can be measured: fp32: no memory; fp32 \+ oneDNN: no memory"):
        tune("trl", FP32, attempt, truth=9.0)


def test_a_default_that_does_not_fit_leaves_the_other_settings_where_the_truth_is_known() -> None:
    def attempt(setting: Setting, limit: float) -> Attempt:
        if setting.numbers == "fp32":
            raise RunError("no memory")
        return Attempt(1.0, (9.0,), 50.0)

    tuned = tune("trl", BF16, attempt, truth=9.0)
    assert tuned.setting.numbers != "fp32" and tuned.tried["fp32"] == "no memory"


def test_each_table_offers_what_keeps_its_meaning() -> None:
    assert [str(setting) for setting in first(FP32)] == ["fp32", "fp32 + oneDNN"]
    assert "bf16 weights" in map(str, first(BF16))
    assert "bf16 weights" not in map(str, first(Cell("S", "bf16", 0, "full", 16)))
    assert {"batching": "packed"} not in further(Setting(), "transformers", FP32)
    assert not any("batching" in change for change in further(Setting(), "trl", Cell("S", "fp32", 0, "qv", 8, "dpo")))
    assert {"compiled": True} not in further(Setting(), "trl", FP32, compiling=False)
    assert Setting().environment == {} and Setting(allocator=True).environment["MALLOC_MMAP_MAX_"] == "0"
