"""Lines over a socket pair: the worker's end waits for answers, the supervisor's end never waits for anybody."""

from __future__ import annotations

import socket
import threading

from weft.errors import RunError
from weft.serve.work.protocol import MOST_BYTES, Answer, Order, Shape, Word


class Closed(RunError):
    """The other end of a channel is gone, or does not keep to the protocol."""


class Ours:
    """The supervisor's end."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._rest = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def lines(self) -> list[bytes] | None:
        """What has arrived since; None where nothing has. Raises Closed at the end, or where a line is too long."""
        try:
            given = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Closed(f"the worker's channel broke ({error.strerror})") from None
        if not given:
            raise Closed("the worker closed its channel")
        *lines, self._rest = (self._rest + given).split(b"\n")
        if len(self._rest) > MOST_BYTES or any(len(line) > MOST_BYTES for line in lines):
            raise Closed(f"the worker sent a line of more than {MOST_BYTES:,} bytes")
        return lines

    def send(self, shape: Shape) -> None:
        """Raises Closed where the other end is gone or has not read for long: answers are short, the buffer is not."""
        try:
            self.socket.sendall(_line(shape))
        except OSError as error:
            raise Closed(f"the worker does not listen ({error.strerror})") from None

    def close(self) -> None:
        self.socket.close()


class Theirs:
    """The worker's end. `say` may be called by several threads."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)
        self._socket, self._lines = end, end.makefile("rb")
        self._one_at_a_time = threading.Lock()

    def order(self) -> Order:
        return Order.model_validate_json(self._line())

    def say(self, word: Word) -> Answer:
        """Tell the supervisor, and what it answers. Raises Closed where it is gone."""
        with self._one_at_a_time:
            try:
                self._socket.sendall(_line(word))
            except OSError as error:
                raise Closed(f"the supervisor is gone ({error.strerror})") from None
            return Answer.model_validate_json(self._line())

    def _line(self) -> bytes:
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise Closed("the supervisor is gone")
        return line


def _line(shape: Shape) -> bytes:
    return shape.model_dump_json().encode() + b"\n"
