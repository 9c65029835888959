"""The server's log: JSON for programs, lines for a terminal; in neither a secret or what a terminal would obey."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from typing import Any

import pytest

from weft.serve.config import ServeConfig
from weft.serve.logs import Log
from weft.settings import SettingsError, resolve

REQUEST: dict[str, Any] = {
    "request_id": "req_1",
    "method": "POST",
    "path": "/v1/files",
    "status": 200,
    "seconds": 0.0123,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def said(kind: str, stream: io.StringIO, event: str = "request", **told: Any) -> str:
    level = told.pop("level", "info")
    Log(kind, stream).say(event, level=level, **(told or REQUEST))
    return stream.getvalue()


def test_auto_is_readable_on_a_terminal_and_json_elsewhere() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d  POST /v1/files 200  0\.012 s  request_id=req_1\n", said("auto", Terminal()))
    piped = json.loads(said("auto", io.StringIO()))
    assert piped | REQUEST == piped
    assert (piped["level"], piped["event"]) == ("info", "request")
    assert piped["time"].endswith("+00:00")


def test_each_kind_is_what_was_asked_for_wherever_it_goes() -> None:
    assert json.loads(said("json", Terminal()))["status"] == 200
    assert "POST /v1/files 200" in said("text", io.StringIO())
    assert said("none", Terminal()) == ""


def test_on_a_terminal_those_that_ask_every_few_seconds_bury_nothing() -> None:
    asked = {**REQUEST, "method": "GET"}
    assert said("text", Terminal(), **asked) == "" and json.loads(said("json", Terminal(), **asked))["method"] == "GET"
    assert "GET /v1/files 404" in said("text", Terminal(), **{**asked, "status": 404})


def test_what_is_no_request_says_its_event_message_and_facts() -> None:
    told = said("text", Terminal(), "worker", level="warn", message="died", job="ftjob-1", attempt=2, at=["a.py:3 f"])
    assert told[8:] == '  WARN  worker: died  job=ftjob-1 attempt=2 at=["a.py:3 f"]\n'
    assert said("text", Terminal(), "tick", key=None, error="ValueError")[8:] == "  tick  error=ValueError\n"


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_line_holds_a_secret_or_a_character_that_a_terminal_obeys(kind: str) -> None:
    secret = "weft-sk-abcdefgh-" + "S" * 43
    nasty = f"/\x1b[2J\r\n\x7f\x9b\u202e/{secret}" + "x" * 5000
    line = said(kind, Terminal(), **{**REQUEST, "path": nasty})
    assert line.endswith("\n") and line[:-1].isprintable() and line[:-1].isascii()
    assert secret not in line and "weft-sk-" in line
    assert len(line) < 2300


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_log_that_cannot_be_written_fails_nothing(kind: str) -> None:
    assert said(kind, Full()) == ""
    closed = Terminal()
    closed.close()
    Log(kind, closed).say("request", **REQUEST)


def test_a_process_without_stderr_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    Log("auto").say("request", **REQUEST)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_told_by_kind_and_place_without_its_text() -> None:
    stream = io.StringIO()
    try:
        raise ValueError("the customer's words")
    except ValueError as error:
        Log("text", stream).failed("tick", error)
    assert "ERROR  tick  error=ValueError at=" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue() and "customer" not in stream.getvalue()


@pytest.mark.filterwarnings("error")
def test_what_libraries_warn_of_is_a_line_like_all_others() -> None:
    stream = io.StringIO()
    log, library = Log("json", stream), logging.getLogger("some.library")
    library.warning("before")
    with log.collecting():
        library.info("chatter")
        library.warning("%s stays\nfor now", "content")
        try:
            raise ValueError("the customer's words")
        except ValueError:
            library.exception("Exception in the application")
    library.warning("after")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert {k: first[k] for k in ("event", "level", "name", "message")} == {
        "event": "library", "level": "warn", "name": "some.library", "message": "content stays",
    }  # fmt: skip
    assert (second["level"], second["error"], second["message"]) == (
        "error", "ValueError", "Exception in the application",
    )  # fmt: skip
    assert "customer" not in stream.getvalue()


def test_the_kind_is_one_setting() -> None:
    assert ServeConfig().log == "auto"
    assert resolve(ServeConfig, {}, environment={"WEFT_LOG": "text"}).config.log == "text"
    with pytest.raises(SettingsError, match=r"setting `log` is 'xml' \(flag\).*'auto', 'text', 'json' or 'none'"):
        resolve(ServeConfig, {"log": "xml"}, environment={})
