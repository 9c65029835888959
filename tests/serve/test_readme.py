"""The six lines of the README that point hosted code at weft: run as they stand, but for the port."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.serve.outside import ROOT, environment, found, rows, tiny

SECTION = "## The hosted API, on your own machine"


def six_lines() -> list[str]:
    """The lines of the section's block, each with its sign."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    (block,) = re.findall(r"^```diff\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return block.splitlines()


def after() -> tuple[str, list[str]]:
    """The line that starts the server, and those of the other terminal."""
    lines = [line[2:] for line in six_lines() if line[0] in "+ "]
    (serve,) = [line for line in lines if line.startswith("weft serve ")]
    return serve, [line for line in lines if line != serve]


def walk(home: Path, seconds: float, **told: str) -> str:
    """Both terminals, `weft` and `python` being those of this environment; what the second one printed."""
    serve, lines = after()
    (home / "examples").mkdir(exist_ok=True)
    (home / "examples" / "hosted").symlink_to(ROOT / "examples" / "hosted")
    log = home / "serve.log"
    settings = environment(home, WEFT_PORT="0", WEFT_DATA=str(home / "data"), **told)
    with log.open("wb") as errors:
        server = subprocess.Popen(shlex.split(serve, comments=True), cwd=home, env=settings, stderr=errors)
    try:
        address = found(log, server)
        script = "set -e\n" + "\n".join(lines).replace("http://127.0.0.1:8000", address)
        done = subprocess.run(
            ["bash", "-c", script], cwd=home, env=environment(home), capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, done.stderr
        server.terminate()
        assert server.wait(90) == 0
    finally:
        server.kill()
        server.wait()
    return done.stdout


def test_before_and_after_are_six_lines_and_the_programs_stay_the_same() -> None:
    lines = six_lines()
    assert len(lines) == 6
    assert [line[0] for line in lines] == list("-+++  ")
    assert all("examples/hosted/" in line for line in lines if line[0] == " ")
    assert not any("weft" in path.read_text() for path in (ROOT / "examples" / "hosted").glob("*.py"))


def test_the_six_lines_of_the_readme_run(tmp_path: Path) -> None:
    """A tiny base of the embedded one's name stands for it, and twelve rows for the tickets."""
    tickets = tmp_path / "examples" / "tickets"
    tickets.mkdir(parents=True)
    rows(tickets / "tickets.jsonl")
    said = walk(tmp_path, 300, WEFT_BASES=str(tiny(tmp_path / "weft-nano")))
    assert said and said == said[: len(said) // 2] * 2  # the answer, then the same as a stream


@pytest.mark.slow
def test_the_six_lines_of_the_readme_run_with_the_embedded_base(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "tickets").symlink_to(ROOT / "examples" / "tickets")
    said = walk(tmp_path, 3600)
    assert '"category"' in said and "#48213" in said, said
