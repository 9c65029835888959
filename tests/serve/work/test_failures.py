"""What an owner reads when a worker fails: a code, a sentence, and no path of this machine."""

from __future__ import annotations

import errno

import pytest

from weft.errors import DamageError, DataError, ModelError, ResourceError, SettingsError, TrainError
from weft.serve.work.failures import failed

NAMES = {"/data/blobs/ab": "file-1", "/data/work/J": "the job's folder"}


@pytest.mark.parametrize(
    ("error", "code", "param", "again"),
    [
        (DataError("/data/blobs/ab: line 3: no answer"), "invalid_training_file", "training_file", False),
        (SettingsError("batch_size"), "invalid_hyperparameters", "hyperparameters", False),
        (ModelError("not this"), "model_not_available", "model", False),
        (TrainError("step 3: loss nan"), "training_failed", None, False),
        (DamageError("step-3"), "checkpoint_damaged", None, False),
        (ResourceError("/data/work/J/run: the disk is full."), "out_of_resources", None, True),
        (OSError(errno.ENOSPC, "No space left on device"), "out_of_resources", None, True),
        (MemoryError(), "out_of_memory", None, True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", None, True),
        (ZeroDivisionError("/home/me/secret"), "internal_error", None, True),
    ],
)
def test_each_kind_of_failure_has_its_code(error: Exception, code: str, param: str | None, again: bool) -> None:
    word = failed(error, NAMES)
    assert (word.code, word.param, word.again) == (code, param, again)
    assert "/data" not in word.message and "secret" not in word.message


def test_files_are_called_as_their_owner_knows_them() -> None:
    assert failed(DataError("/data/blobs/ab: line 3: no answer"), NAMES).message == "file-1: line 3: no answer"


def test_a_very_long_message_is_cut() -> None:
    assert len(failed(DataError("x" * 10_000), {}).message) == 4000
