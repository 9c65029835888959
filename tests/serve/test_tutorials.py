"""The three programs of the tutorials, unchanged, against a fresh `weft serve`: two environment variables, no more."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.outside import FINAL, ROOT, Outside, rows, tiny, until

TOLD = (
    *("Created fine-tuning job: ", "Validating training file: ", "Files validated", "Fine-tuning job started"),
    *("New fine-tuned model created: ", "The job has successfully completed"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A server over a tiny base that the hosted name stands for; it leaves with 0 when it is told to."""
    home = tmp_path_factory.mktemp("tutorials")
    with Outside(home, "--base", str(tiny(home / "tiny")), "--alias", "gpt-4o-mini=tiny") as server:
        yield server


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def the_tutorials(server: Outside, file: Path, base: str, question: str) -> str:
    """Upload and job; job with three epochs, its events, checkpoints and result file; chat, whole and as a stream.

    What the model said.
    """
    first = said(server.run("tune.py", str(file)))
    assert re.fullmatch(r"ftjob-\w{24}", first)

    second = server.run("epochs.py", str(file))
    model = said(second)
    assert re.fullmatch(rf"ft:{base}:local::\w{{8}}", model)
    lines = second.stderr.splitlines()
    assert [start for line in lines for start in TOLD if line.startswith(start)] == list(TOLD)
    assert f"New fine-tuned model created: {model}" in lines
    done = lines.index(TOLD[-1])
    checkpoints = [line for line in lines[done:] if re.match(r"step \d+: ft:", line)]
    assert checkpoints[0].endswith(f": {model}")
    assert [":ckpt-step-" in line for line in checkpoints] == [False, True, True]
    assert re.fullmatch(r"training loss from [\d.]+ to [\d.]+ in \d+ steps", lines[-1])

    twice = server.run("chat.py", model, question)
    assert twice.returncode == 0, twice.stderr
    whole = twice.stdout[: len(twice.stdout) // 2]
    assert twice.stdout == whole * 2  # a model of random weights may have nothing to say

    client = server.sdk(_strict_response_validation=True)
    assert until(lambda: (job := client.fine_tuning.jobs.retrieve(first)).status in FINAL and job, 900).error is None
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=8, temperature=0
    )
    assert answer.model == model and str(answer.system_fingerprint).startswith(base)
    return whole.strip()


def test_the_three_programs_of_the_tutorials_run_unchanged(server: Outside, tmp_path: Path) -> None:
    the_tutorials(server, rows(tmp_path / "train.jsonl"), "tiny", "river number 7")


def test_a_program_is_told_in_a_sentence_why_its_job_failed(
    server: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which has imported the SDK already; its sentence is what it leaves with."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setattr(sys, "argv", ["epochs.py", str(rows(tmp_path / "few.jsonl", 3))])
    with pytest.raises(SystemExit, match=r"ftjob-\w+ failed: .*3 .*at least 10"):
        runpy.run_path(str(ROOT / "examples" / "hosted" / "epochs.py"), run_name="__main__")


@pytest.mark.slow
def test_the_three_programs_run_with_the_embedded_base(tmp_path: Path) -> None:
    few = (ROOT / "examples" / "tickets" / "tickets.jsonl").read_text().splitlines(keepends=True)[:60]
    (tmp_path / "train.jsonl").write_text("".join(few))
    with Outside(tmp_path / "home", "--alias", "gpt-4o-mini=weft-nano") as server:
        assert the_tutorials(server, tmp_path / "train.jsonl", "weft-nano", "Where is my parcel #48213?")
