"""`weft serve` and `weft keys` as commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner, Result

from weft.cli import cli
from weft.errors import UsageError
from weft.serve.bases import look
from weft.serve.config import ServeConfig


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def test_a_key_is_made_listed_and_revoked(data: str) -> None:
    made = run(
        "keys", "create", "laptop", "--data", data, "--owner", "alice", "--scopes", "files,chat", "--expires", "30d"
    )
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    assert secret.startswith("weft-sk-")
    assert secret not in made.stderr
    listed = json.loads(run("keys", "list", "--json", "--data", data).stdout)["keys"]
    assert [(key["name"], key["owner"], key["scopes"]) for key in listed] == [("laptop", "alice", ["files", "chat"])]
    assert listed[0]["state"].startswith("valid until ")
    assert secret.startswith(listed[0]["prefix"])
    assert secret not in json.dumps(listed)
    assert run("keys", "revoke", listed[0]["id"], "--data", data).exit_code == 0
    shown = run("keys", "list", "--data", data).stdout
    assert "laptop  owner alice  files,chat  revoked  never used" in shown
    assert all(secret.encode() not in path.read_bytes() for path in Path(data).rglob("*") if path.is_file())


def test_the_list_is_a_table_and_says_when_a_key_was_last_used(data: str) -> None:
    from weft.serve.keys import Keys

    secret = run("keys", "create", "a", "--data", data).stdout.strip()
    run("keys", "create", "longer", "--owner", "bob", "--data", data)
    keys = Keys.open(Path(data), clock=lambda: 1_800_000_000)
    assert keys.find(secret) is not None
    keys.close()
    first, second = run("keys", "list", "--data", data).stdout.splitlines()
    assert first.index("owner local") == second.index("owner bob") and first.index("valid") == second.index("valid")
    assert first.endswith("valid  used 2027-01-15") and second.endswith("valid  never used")
    assert json.loads(run("keys", "list", "--json", "--data", data).stdout)["keys"][0]["last_used_at"] == 1_800_000_000


def test_an_empty_list_says_how_to_make_one(data: str) -> None:
    assert run("keys", "list", "--data", data).stdout == f"There is no key in {data}. Make one: weft keys create NAME\n"
    assert not Path(data).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "k", "--expires", "soon"), "is no time"),
        (("create", "k", "--expires", "2001-01-01"), "has passed"),
        (("create", "k", "--owner", "Alice Smith"), "owner 'Alice Smith'"),
        (("create", "k", "--scopes", "root"), "scopes root"),
        (("revoke", "key_unknown"), "No such key"),
    ],
)
def test_a_wrong_flag_is_named(data: str, arguments: tuple[str, ...], said: str) -> None:
    result = run("keys", *arguments, "--data", data)
    told = result.output + str(result.exception or "")
    assert result.exit_code != 0
    assert said in told
    assert isinstance(result.exception, SystemExit | UsageError)


def test_an_open_address_without_keys_is_refused(data: str) -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", "0", "--data", data)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert "weft keys create NAME" in str(result.exception)


def test_an_address_that_is_taken_is_refused(data: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", str(taken.getsockname()[1]), "--data", data)
    assert isinstance(result.exception, UsageError)
    assert "Take another --port" in str(result.exception)


def test_settings_come_from_a_file_too_and_flags_complete_it(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve.yaml").write_text("port: 7\nslots: 2\nalias:\n  gpt-4o: weft-nano\n")
    seen: list[ServeConfig] = []
    monkeypatch.setattr("weft.serve.listen.serve", lambda config, **_: seen.append(config))
    result = run("serve", "--config", str(tmp_path / "serve.yaml"), "--port", "8", "--alias", "gpt-4=weft-nano")
    assert result.exit_code == 0, result.output
    assert (seen[0].port, seen[0].slots, seen[0].alias) == (8, 2, {"gpt-4o": "weft-nano", "gpt-4": "weft-nano"})


def test_a_base_that_cannot_be_loaded_is_refused_before_anything_listens(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for arguments, said in (
        (("--base", "/nonexist"), "base '/nonexist': there is no such folder. .*A base is 'weft-nano'"),
        (("--base", str(tmp_path / "file")), "is a file; name the folder that it lies in"),
        (("--base", "owner/model"), "neither a folder nor in the hub cache, and weft is offline"),
        (
            ("--base", str(tmp_path / "empty")),
            r"empty: this is not a base model(.|\n)*there is no config.json(.|\n)*Mend it, or serve another base",
        ),
        (("--alias", f"gpt={tmp_path / 'empty'}"), "there is no config.json"),
        (("--alias", "gpt=nope"), "--alias gpt=nope: 'nope' is no base of this server. Bases here: weft-nano."),
    ):
        result = run("serve", "--port", "0", "--data", data, *arguments)
        assert isinstance(result.exception, UsageError), result.output
        assert result.exception.exit_code == 2
        assert re.search(said, str(result.exception)), str(result.exception)
    assert not Path(data).exists()


def test_a_route_of_float32_that_is_none_is_refused_before_anything_listens(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_FLOAT32", "fast")
    result = run("serve", "--port", "0", "--data", data)
    assert isinstance(result.exception, UsageError) and "WEFT_FLOAT32 is 'fast', expected" in str(result.exception)
    assert not Path(data).exists()


def test_a_base_of_the_hub_is_left_to_its_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("weft.models.load.offline", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("weft.models.load._from_hub", lambda name: pytest.fail("the hub was asked"))
    look(ServeConfig(bases=("owner/model", "weft-nano"), alias={"gpt": "owner/model"}))


def test_an_alias_that_is_no_pair_is_named() -> None:
    result = run("serve", "--alias", "gpt-4o")
    assert isinstance(result.exception, UsageError)
    assert "'gpt-4o' is no NAME=BASE" in str(result.exception)


def test_nothing_heavy_is_imported_before_the_server_listens() -> None:
    code = "import sys, weft.serve.listen, weft.serve.app as app; app._answering(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_help_tells_of_the_two_flags_that_repeat() -> None:
    said = run("serve", "--help").stdout
    assert "--alias NAME=BASE" in said
    assert "--base BASE" in said
    assert "--heartbeat-seconds" in said


@pytest.fixture
def started(data: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server as a process: (process, address, what it said at the start)."""
    command = [sys.executable, "-m", "weft", "serve", "--port", "0", "--data", data, "--alias", "gpt-4o-mini=weft-nano"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WEFT_OFFLINE": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stderr is not None
    said: list[str] = []
    while not said or "data:" not in said[-1]:
        line = process.stderr.readline()
        assert line, f"it ended: {said}"
        said.append(line)
    address = re.findall(r"http://127\.0\.0\.1:[0-9]+", said[0])[0]
    yield process, address, said
    process.kill()
    process.communicate()


def test_it_says_where_it_is_answers_and_leaves_when_it_is_told_to(
    started: tuple[subprocess.Popen[str], str, list[str]], data: str
) -> None:
    process, address, said = started
    text = "".join(said)
    assert f"export OPENAI_BASE_URL={address}/v1" in text
    assert "any is accepted, from this machine alone" in text
    assert "gpt-4o-mini = weft-nano" in text
    for _ in range(200):
        try:
            assert httpx.get(f"{address}/health").json() == {"status": "ok"}
            break
        except httpx.TransportError:
            time.sleep(0.05)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any")
    assert {model.id for model in client.models.list()} == {"weft-nano", "gpt-4o-mini"}
    assert httpx.get(f"{address}/ready").status_code in (200, 503)
    # A second server does not share the folder, and a key can be made beside the running one.
    second = run("serve", "--port", "0", "--data", data)
    assert isinstance(second.exception, UsageError)
    made = run("keys", "create", "k", "--data", data)
    assert made.exit_code == 0, made.output
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    assert client.with_options(api_key=made.stdout.strip()).models.list().data
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    assert process.stderr is not None
    log = [json.loads(line) for line in process.stderr]  # no terminal: JSON, all of it
    assert {"request"} < {line["event"] for line in log}
    (stopping,) = [line["message"] for line in log if line["event"] == "stopping"]
    assert stopping == "answers have 20 s to end; another signal ends at once"
