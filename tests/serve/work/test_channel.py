"""Lines between a worker and its supervisor: checked, bounded, and never waited for on the supervisor's side."""

from __future__ import annotations

import socket
import threading

import pytest
from pydantic import ValidationError

from weft.serve.work.channel import Closed, Ours, Theirs
from weft.serve.work.protocol import MOST_BYTES, Answer, Beat, Note, Settled, Steps, read_word


def _pair() -> tuple[Ours, socket.socket]:
    ours, theirs = socket.socketpair()
    return Ours(ours), theirs


def test_lines_arrive_whole_whatever_the_pieces() -> None:
    ours, theirs = _pair()
    assert ours.lines() is None
    theirs.sendall(b'{"say": "be')
    assert ours.lines() == []
    theirs.sendall(b'at"}\n{"say": "validated"}\n{')
    assert ours.lines() == [b'{"say": "beat"}', b'{"say": "validated"}']


def test_a_word_is_answered() -> None:
    ours, end = _pair()
    theirs, answers = Theirs(end), []
    thread = threading.Thread(target=lambda: answers.append(theirs.say(Beat())))
    thread.start()
    while not (lines := ours.lines()):
        pass
    assert read_word(lines[0]) == Beat()
    ours.send(Answer(refused="too late"))
    thread.join()
    assert answers == [Answer(refused="too late")]


def test_the_end_of_a_channel_is_heard_on_both_sides() -> None:
    ours, end = _pair()
    end.close()
    with pytest.raises(Closed, match="closed its channel"):
        ours.lines()
    ours, end = _pair()
    ours.close()
    with pytest.raises(Closed, match="supervisor is gone"):
        Theirs(end).say(Beat())


def test_a_line_without_end_is_cut_off() -> None:
    ours, theirs = _pair()
    theirs.setblocking(False)
    with pytest.raises(Closed, match="more than 1,048,576 bytes"):
        for _ in range(2 * MOST_BYTES // 65536):
            theirs.send(b"x" * 65536)
            ours.lines()


def test_a_worker_that_does_not_read_is_not_waited_for() -> None:
    ours, _theirs = _pair()
    with pytest.raises(Closed, match="does not listen"):
        for _ in range(100_000):
            ours.send(Answer(refused="x" * 900))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"say": "obey"}',
        b'{"say": "beat", "job": "another"}',
        b'{"say": "steps", "steps": [{"step": 1, "total": 2, "values": {"train_loss": NaN}}]}',
        b'{"say": "steps", "steps": [{"step": 0, "total": 2, "values": {}}]}',
        b'{"say": "steps", "steps": [{"step": 1, "total": 2, "values": {"=cmd": 1}}]}',
        b'{"say": "epoch", "step": "../../etc", "values": {}}',
        b'{"say": "failed", "code": "Not A Code", "message": ""}',
        b'{"say": "settled", "hyperparameters": {}, "base_sha256": "../x y"}',
    ],
)
def test_what_is_no_word_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        read_word(line)


def test_words_come_back_as_they_were_sent() -> None:
    for word in (Note(message="ü\n"), Settled(hyperparameters={"n_epochs": 3}, base_sha256="ab"), Steps(steps=())):
        assert read_word(word.model_dump_json().encode()) == word
