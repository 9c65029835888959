"""A multipart form as a stream: its file goes straight to where it is kept, never into memory or a second file.

The framework's own parser writes every file to a temporary one first; this one, on the same library, hands the bytes on
as they come. Parsing and writing happen in a thread that asks the event loop for the next piece of the request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
from anyio import from_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from weft.serve.errors import ApiError, invalid

K = TypeVar("K")
_MOST_FIELDS = 32
_LONGEST_FIELD = 8192
_AT_ONCE = 128
"""Forms that are taken at the same time; further ones wait, and hold up nobody but themselves."""
_limiter: anyio.CapacityLimiter | None = None


@dataclass(frozen=True)
class Form(Generic[K]):
    """What came: the text fields, the file's name as the client called it, and what `keep` made of its bytes."""

    fields: dict[str, str]
    filename: str
    kept: K


async def received(
    request: Request, field: str, keep: Callable[[Iterator[bytes]], K], undo: Callable[[K], None] = lambda kept: None
) -> Form[K]:
    """Read the form of `request`; the bytes of its file `field` are given to `keep` while they arrive.

    Raises ApiError 400 for what is no such form, and whatever `keep` raises; `undo` is called where the form turns out
    to be wrong behind its file.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise invalid("Expected a multipart/form-data request with a boundary, as the SDK sends it.", field)
    stream = request.stream()

    async def step() -> bytes | None:
        async for chunk in stream:
            return chunk
        return None

    def chunks() -> Iterator[bytes]:
        while (chunk := from_thread.run(step)) is not None:
            yield chunk

    return await anyio.to_thread.run_sync(_read, chunks(), options[b"boundary"], field, keep, undo, limiter=_taking())


def _taking() -> anyio.CapacityLimiter:
    """The limit on forms at once; made late, because it belongs to a running event loop's library."""
    global _limiter
    _limiter = _limiter or anyio.CapacityLimiter(_AT_ONCE)
    return _limiter


def _read(
    chunks: Iterator[bytes],
    boundary: bytes,
    field: str,
    keep: Callable[[Iterator[bytes]], K],
    undo: Callable[[K], None],
) -> Form[K]:
    found: list[tuple[str, K]] = []
    try:
        fields = _fields(chunks, boundary, field, keep, found)
    except BaseException as error:
        for _, kept in found:
            undo(kept)
        if isinstance(error, FormParserError):
            raise invalid(f"The multipart form cannot be read: {error}.", field) from None
        raise
    if not found:
        raise invalid(f"'{field}' is a required property: the form has no file of that name.", field)
    return Form(fields, *found[0])


def _fields(
    chunks: Iterator[bytes],
    boundary: bytes,
    field: str,
    keep: Callable[[Iterator[bytes]], K],
    found: list[tuple[str, K]],
) -> dict[str, str]:
    """The text fields; the one file that is expected goes into `found`."""
    fields: dict[str, str] = {}
    for name, filename, data in _parts(chunks, boundary):
        if filename is None:
            if len(fields) >= _MOST_FIELDS:
                raise invalid(f"The form has more than {_MOST_FIELDS} fields.")
            fields[name] = _text(name, data)
        elif name == field and not found:
            found.append((filename, keep(data)))
        else:
            expected = f"one file, under `{field}`" + (" (it came twice)" if name == field else "")
            raise invalid(f"The form has a file under `{name[:64]}`; expected {expected}.", field)
    return fields


def _text(name: str, data: Iterator[bytes]) -> str:
    value = b""
    for piece in data:
        value += piece
        if len(value) > _LONGEST_FIELD:
            raise invalid(f"`{name[:64]}` is longer than {_LONGEST_FIELD} bytes.", name[:64])
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid(f"`{name[:64]}` is not UTF-8 text.", name[:64]) from None
    if "\0" in text:
        raise invalid(f"`{name[:64]}` holds a NUL character.", name[:64])
    return text


def _parts(chunks: Iterator[bytes], boundary: bytes) -> Iterator[tuple[str, str | None, Iterator[bytes]]]:
    """(name, file name or None for a text field, bytes) of each part; the bytes are gone once the next is asked for."""
    events = _events(chunks, boundary)
    for kind, value in events:
        if kind == "begin":
            name, filename = value
            data = _until_end(events)
            yield name, filename, data
            for _ in data:
                pass


def _until_end(events: Iterator[tuple[str, Any]]) -> Iterator[bytes]:
    for kind, value in events:
        if kind == "end":
            return
        yield value


def _events(chunks: Iterator[bytes], boundary: bytes) -> Iterator[tuple[str, Any]]:
    """`begin` (name, file name), `data` bytes, `end`. Raises FormParserError, also where the form is cut off."""
    waiting: deque[tuple[str, Any]] = deque()
    header: list[bytes] = [b"", b""]
    disposition: list[bytes] = [b""]
    closed: list[bool] = [False]

    def begin() -> None:
        disposition[0] = b""

    def header_name(data: bytes, start: int, end: int) -> None:
        header[0] += data[start:end]

    def header_value(data: bytes, start: int, end: int) -> None:
        header[1] += data[start:end]

    def header_end() -> None:
        if header[0].lower() == b"content-disposition":
            disposition[0] = header[1]
        header[:] = [b"", b""]

    def headers_end() -> None:
        _, options = parse_options_header(disposition[0])
        if b"name" not in options:
            raise FormParserError("a part has no name in its Content-Disposition")
        filename = options.get(b"filename")
        name = options[b"name"].decode("utf-8", "replace")
        waiting.append(("begin", (name, None if filename is None else filename.decode("utf-8", "replace"))))

    def ended() -> None:
        closed[0] = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": header_name,
            "on_header_value": header_value,
            "on_header_end": header_end,
            "on_headers_finished": headers_end,
            "on_part_data": lambda data, start, end: waiting.append(("data", bytes(data[start:end]))),
            "on_part_end": lambda: waiting.append(("end", None)),
            "on_end": ended,
        },
    )
    for chunk in chunks:
        parser.write(chunk)
        while waiting:
            yield waiting.popleft()
    if not closed[0]:
        raise FormParserError("it is cut off before its last boundary")


def form_field_error(fields: dict[str, str], name: str, allowed: tuple[str, ...]) -> ApiError:
    """400 for a text field that is missing or not among `allowed`."""
    if name not in fields:
        return invalid(f"'{name}' is a required property", name)
    return invalid(f"'{fields[name][:64]}' is not one of {list(allowed)} - '{name}'", name)
