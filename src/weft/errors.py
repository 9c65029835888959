"""The tree of failures. Each message says what was found, what was expected, and the way out.

WeftError                 base; never raised itself
├── UsageError            the command was asked for something impossible            exit 2
│   ├── SettingsError     a setting is unknown or out of its range                  exit 2
│   └── MissingExtra      an optional library is not installed                      exit 2
├── DataError             the examples cannot be used as they are                   exit 1
└── RunError              something broke while working                             exit 3
    ├── ModelError        a base, tokenizer, template or adapter cannot be used     exit 3
    ├── TrainError        training must not go on, or produced nothing to publish   exit 3
    ├── ResourceError     memory, disk or permission is lacking                     exit 3
    └── DamageError       a file is not what its manifest says                      exit 3
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


class DataError(WeftError):
    """The examples cannot be used; the message names file, line and rule."""

    exit_code = 1


class RunError(WeftError):
    """Something broke while working."""


class ModelError(RunError):
    """A base model, tokenizer, chat template or adapter cannot be used."""


class TrainError(RunError):
    """Training must not go on (non-finite numbers) or produced nothing that may be published."""


class ResourceError(RunError):
    """Memory, disk space or a permission is lacking."""


class DamageError(RunError):
    """A file does not match its manifest."""
