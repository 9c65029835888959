"""What the words of one attempt mean for the store. The only place where a worker's word becomes a row.

Files are those that the job's own folder has under fixed names; a link in their place is refused. Superseded goes up to
the supervisor, which ends the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import DamageError
from weft.serve.records import EventDraft
from weft.serve.work import measures
from weft.serve.work.names import ADAPTER, TABLE, epoch, published
from weft.serve.work.protocol import (
    Beat,
    Epoch,
    Failed,
    Finished,
    Left,
    Note,
    Settled,
    StepMeasures,
    Steps,
    Validated,
    Word,
)

if TYPE_CHECKING:
    from weft.serve.leases import Lease, Leases
    from weft.serve.store.blobs import Blobs

_PIECE = 1 << 20
_MOST_TABLE_BYTES = 1 << 30


class Desk:
    """One attempt's way to the store."""

    def __init__(self, lease: Lease, leases: Leases, blobs: Blobs, folder: Path, clock: Callable[[], float]) -> None:
        self.lease, self.folder = lease, folder
        self._leases, self._blobs, self._clock = leases, blobs, clock
        self.ended = False
        """Whether the attempt has had its last word."""
        self.succeeded = False
        self.failed: str | None = None
        """The code of the failure that the attempt ended with."""
        self._adapters = folder / published(lease.job.start_from)

    def hear(self, word: Word) -> None:
        """Write down what `word` says. Raises Superseded, DamageError where a file is not what it should be."""
        match word:
            case Beat():
                pass
            case Steps():
                self._leases.events(*self._key, [_draft(told) for told in word.steps])
            case Note():
                self._leases.event(*self._key, word.level, _plain(word.message))
            case Settled():
                self._settled(word)
            case Epoch():
                self._epoch(word)
            case Validated():
                self._leases.validated(*self._key)
                self.ended = True
            case Finished():
                self._finish(word)
            case Failed():
                self.fail(word.code, _plain(word.message), word.param, again=word.again)
            case Left():
                self.leave()

    def fail(self, code: str, message: str, param: str | None = None, *, again: bool) -> None:
        """The attempt is over; the queue decides whether there is another."""
        self._leases.fail(*self._key, code, message, param, again)
        self.ended, self.failed = True, code

    def leave(self) -> None:
        """The worker is gone as it was told. Whether the job waits, rests or is cancelled, its owner's wish says."""
        self._leases.released(*self._key)
        self.ended = True

    @property
    def _key(self) -> tuple[str, int]:
        return self.lease.job.id, self.lease.attempt

    def _settled(self, word: Settled) -> None:
        numbers = {name: int(value) if value.is_integer() else value for name, value in word.hyperparameters.items()}
        # The multiplier is a number with a fraction to every client that looks at types.
        if "learning_rate_multiplier" in numbers:
            numbers["learning_rate_multiplier"] = word.hyperparameters["learning_rate_multiplier"]
        finish = None if word.seconds_left is None else int(self._clock() + word.seconds_left)
        self._leases.settled(*self._key, numbers, finish, base_sha256=word.base_sha256)

    def _epoch(self, word: Epoch) -> None:
        folder = self._adapters / epoch(word.step)
        try:
            identity = self._blobs.adopt_adapter(self._own(folder))
        except DamageError:
            if folder.exists():
                raise
            return  # newer epochs took its place before anybody looked
        self._leases.checkpoint(*self._key, word.step, {"step": word.step, **_shown(word.values)}, identity)

    def _finish(self, word: Finished) -> None:
        identity = self._blobs.adopt_adapter(self._own(self._adapters / ADAPTER))
        sha256, size = self._blobs.put(_pieces(self._own(self.folder / TABLE)), _MOST_TABLE_BYTES)
        metrics = {"step": word.step, **_shown(word.values)}
        result = (identity, word.trained_tokens, sha256, size)
        job = self._leases.finish(*self._key, *result, step=word.step, metrics=metrics)
        self.ended, self.succeeded = True, job.status == "succeeded"

    def _own(self, path: Path) -> Path:
        """`path`, if no part of it below the job's folder is a link."""
        if path.resolve() != self.folder.resolve() / path.relative_to(self.folder):
            raise DamageError(f"{path}: a link stands in its place; a worker writes plain files and folders.")
        return path


def _draft(told: StepMeasures) -> EventDraft:
    return EventDraft(measures.sentence(told), "info", "metrics", measures.event_data(told))


def _shown(values: dict[str, float]) -> dict[str, float]:
    """What a checkpoint shows of its step."""
    return {name: value for name, value in values.items() if name.startswith(("train_", "valid_", "full_valid_"))}


def _plain(text: str) -> str:
    """Without characters that would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DamageError(f"{path}: cannot be read ({error.strerror}).") from None
    with os.fdopen(handle, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece
