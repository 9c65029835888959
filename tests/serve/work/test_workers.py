"""The process that workers come from: what it sees, what it leaves behind, how it is found again."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serve.work.conftest import forked
from weft.errors import RunError
from weft.serve.work.confine import MARK, at_bound, bound, die_with, environment
from weft.serve.work.leftovers import end_leftovers, leftovers
from weft.serve.work.workers import Workers

SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "WEFT_DATABASE", "WEFT_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")


def _until(what: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_environment_of_workers_is_an_allow_list() -> None:
    given = {**dict.fromkeys(SECRETS, "a secret"), "PATH": "/bin", "LANG": "C.UTF-8"}
    made = environment("/data/work", given)
    assert "a secret" not in made.values()
    assert made["PATH"] == "/bin" and made[MARK] == "/data/work"
    assert made["HOME"] == made["TMPDIR"] == "/data/work/scratch"
    assert made["WEFT_OFFLINE"] == made["HF_HUB_OFFLINE"] == "1"


def test_a_nursery_has_no_secret_and_ends_with_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a-secret-word")
    workers = Workers(tmp_path)
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "log").open("w") as log:
        workers.start("job:1", theirs, log.fileno())
    (nursery,) = leftovers(tmp_path)
    assert b"a-secret-word" not in Path(f"/proc/{nursery}/environ").read_bytes()
    assert b"a-secret-word" not in Path(f"/proc/{nursery}/cmdline").read_bytes()
    assert os.getsid(nursery) == nursery
    assert (tmp_path / "nursery.log").stat().st_mode & 0o777 == 0o600
    workers.close()
    assert leftovers(tmp_path) == []


def test_what_an_earlier_server_left_is_ended_and_others_are_not(tmp_path: Path) -> None:
    def sleeper(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], env={MARK: folder})

    ours, other = sleeper(str(tmp_path)), sleeper(f"{tmp_path}-another")
    try:
        _until(lambda: leftovers(tmp_path) == [ours.pid])
        os.kill(ours.pid, signal.SIGSTOP)
        assert end_leftovers(tmp_path) == 1
        assert ours.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert end_leftovers(tmp_path) == 0
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_a_nursery_that_dies_is_noticed_and_begun_anew(tmp_path: Path) -> None:
    workers = Workers(tmp_path, begin=forked)
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "log").open("w") as log:
        workers.start("job:1", theirs, log.fileno())
        told = []
        _until(lambda: told.extend(workers.notices() or []) or told)
        assert told[0].name == "job:1" and told[0].process
        parent = int(Path(f"/proc/{told[0].process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)
        _until(lambda: workers.notices() is None)
        assert workers.socket is None
        workers.start("job:2", theirs, log.fileno())
        _until(lambda: any(notice.name == "job:2" for notice in workers.notices() or []))
        workers.kill("job:2")
        _until(lambda: any(notice.status == -signal.SIGKILL for notice in workers.notices() or []))
    workers.close()


def test_a_process_whose_parent_is_gone_does_not_begin() -> None:
    with pytest.raises(RunError, match="the process that started this one is gone"):
        die_with(1 if os.getppid() != 1 else 2)


def test_a_process_knows_when_it_holds_all_that_it_may(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 9999 kB\nVmData:\t  950 kB\n")
    assert at_bound(1_000_000, status) and not at_bound(2_000_000, status)
    assert not at_bound(None, status) and not at_bound(1, tmp_path / "nowhere")


def test_bounds_hold_for_the_process_that_sets_them(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bound(None, 1000)
            path = tmp_path / "large"
            try:
                path.write_bytes(b"x" * 2000)
            except OSError as error:
                private = path.stat().st_mode & 0o077 == 0
                status = 0 if error.errno == 27 and private and resource.getrlimit(resource.RLIMIT_CORE)[0] == 0 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
