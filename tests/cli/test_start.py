"""The command answers at once and says plainly what it cannot do."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

HEAVY = ["torch", "transformers", "scipy", "sqlalchemy", "httpx", "sklearn", "matplotlib", "fastapi", "peft", "numpy"]


def weft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "weft", *arguments], capture_output=True, text=True, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom weft.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stderr) == []
    assert "The whole road" in done.stdout


def test_help_answers_within_its_budget() -> None:
    def seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Of the processor, which is all that it waits for: a clock would count other people's work. What Python itself
    # needs is not ours.
    ours = min(seconds("-m", "weft", "--help") - seconds("-c", "pass") for _ in range(5))
    assert ours <= 0.150


def test_help_of_the_training_verbs_needs_no_torch() -> None:
    code = (
        "import sys\nfrom weft.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "False"
    assert "--learning-rate" in done.stdout and "--lora-r" in done.stdout


def test_a_mistyped_verb_is_answered_with_the_nearest_one() -> None:
    done = weft("trian", "data.jsonl")
    assert done.returncode == 2
    assert "Did you mean `weft train`?" in done.stderr


def test_an_unknown_flag_ends_in_2() -> None:
    done = weft("run", "data.jsonl", "--learning-rat", "1")
    assert done.returncode == 2
    assert "--learning-rate" in done.stderr


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from weft.cli import main

    def lacks(name: str) -> None:
        def scan(*_: Any, **__: Any) -> None:
            raise ModuleNotFoundError(name=name)

        monkeypatch.setattr("weft.data.read.scan", scan)

    lacks("sqlalchemy.orm")
    with pytest.raises(SystemExit) as end:
        main(["check", "a.jsonl"])
    assert end.value.code == 2
    assert "weft: this needs sqlalchemy, which is not installed: pip install 'weft[local]'" in capsys.readouterr().err
    lacks("weft.lost")  # a fault of ours is not put on the user
    with pytest.raises(ModuleNotFoundError):
        main(["check", "a.jsonl"])
