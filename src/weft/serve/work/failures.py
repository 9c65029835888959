"""What went wrong in a worker → what the owner of the job reads: a code and a sentence, no path of this machine.

The whole of it stands in the attempt's log, for the operator.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from weft.errors import DamageError, DataError, ModelError, ResourceError, TrainError, UsageError, WeftError
from weft.serve.work.protocol import Failed

_MOST = 4000
_TRAINING_FILE = "training_file"
_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc"),
    "could not create a primitive",  # oneDNN, when its scratch memory is refused
    "can't start new thread",
)
"""What libraries say, in lower case, where memory is lacking."""


def failed(error: BaseException, names: Mapping[str, str]) -> Failed:
    """The word for `error`; `names`: paths that may stand in its message, and what the owner calls them."""
    if isinstance(error, MemoryError) or any(said in str(error).lower() for said in _MEMORY):
        return Failed(
            code="out_of_memory",
            message="The job needs more memory than a worker may take. Choose a smaller batch_size, shorter examples "
            "or a smaller base.",
            again=True,
        )
    if isinstance(error, ResourceError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG)):
        return Failed(code="out_of_resources", message=_named(error, names), again=True)
    if isinstance(error, DamageError):
        return Failed(
            code="checkpoint_damaged",
            message="What was saved of the job is damaged, so it cannot go on. Create it again. The operator finds in "
            "the log of this attempt what was found; the disk needs a look.",
        )
    for kind, code, param in (
        (DataError, "invalid_training_file", _TRAINING_FILE),
        (UsageError, "invalid_hyperparameters", "hyperparameters"),
        (ModelError, "model_not_available", "model"),
        (TrainError, "training_failed", None),
    ):
        if isinstance(error, kind):
            return Failed(code=code, message=_named(error, names), param=param)
    if isinstance(error, WeftError):
        return Failed(code="training_failed", message=_named(error, names))
    return Failed(
        code="internal_error",
        message="The worker failed for a reason of its own. The operator finds it in the log of this attempt.",
        again=True,
    )


def _named(error: BaseException, names: Mapping[str, str]) -> str:
    said = str(error)
    for path in sorted(names, key=len, reverse=True):
        said = said.replace(path, names[path])
    return said if len(said) <= _MOST else f"{said[: _MOST - 1]}…"
