"""The tree of failures. Each message says what was found, what was expected, and the way out.

WeftError                 base; never raised itself
├── UsageError            the command was asked for something impossible            exit 2
│   ├── SettingsError     a setting is unknown or out of its range                  exit 2
│   ├── MissingExtra      an optional library is not installed                      exit 2
│   ├── NotThere          nothing of this kind has this id for this owner           exit 2
│   ├── Conflict          the same key of a request came with another content       exit 2
│   ├── WrongState        the object is in a state that does not allow this         exit 2
│   └── TooLarge          more bytes than are allowed here                          exit 2
├── DataError             the examples cannot be used as they are                   exit 1
├── Stopped               told to stop, and everything that was done is saved       exit 143
└── RunError              something broke while working                             exit 3
    ├── ModelError        a base, tokenizer, template or adapter cannot be used     exit 3
    ├── TrainError        training must not go on, or produced nothing to publish   exit 3
    ├── ResourceError     memory, disk or permission is lacking                     exit 3
    ├── DamageError       a file is not what its manifest says                      exit 3
    └── Superseded        another worker holds the job by now, or it has ended      exit 3
"""

from __future__ import annotations


class WeftError(Exception):
    """Base of every failure that weft explains; `exit_code` is what a command ends with."""

    exit_code = 3


class UsageError(WeftError):
    """The request itself is wrong: a path that is not there, a flag that does not fit."""

    exit_code = 2


class SettingsError(UsageError):
    """One or more settings are unknown or out of range; the message lists all of them."""


class MissingExtra(UsageError):
    """A library of an optional extra is needed; the message names the `pip install`."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs: pip install 'weft[{extra}]'")


class NotThere(UsageError):
    """Nothing of this kind has this id, or it is another owner's; the two are never told apart."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"No such {kind}: {id}. Look among those that the list of your {kind}s shows.")
        self.kind, self.id = kind, id


class Conflict(UsageError):
    """A key that makes a request count once was used before, with another content."""


class WrongState(UsageError):
    """The object is in a state in which this cannot be done; `state` is that state."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class TooLarge(UsageError):
    """More bytes came than are allowed; nothing of them was kept. `limit` is what is allowed."""

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class DataError(WeftError):
    """The examples cannot be used; the message names file, line and rule."""

    exit_code = 1


class Stopped(WeftError):
    """Told to stop: what was done is saved, and the same command goes on from there. No failure of the run."""

    exit_code = 143  # as a shell says of a command that SIGTERM ended


class RunError(WeftError):
    """Something broke while working."""


class ModelError(RunError):
    """A base model, tokenizer, chat template or adapter cannot be used."""


class TrainError(RunError):
    """Training must not go on (non-finite numbers) or produced nothing that may be published."""


class ResourceError(RunError):
    """Memory, disk space or a permission is lacking."""


class Unreachable(ResourceError):
    """A database does not answer at the moment; the same call may succeed later."""


class DamageError(RunError):
    """A file does not match its manifest."""


class Superseded(RunError):
    """A worker's attempt no longer counts: a newer one exists, its lease ran out, or the job has ended."""
