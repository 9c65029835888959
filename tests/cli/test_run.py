"""`weft run`, `train` and `eval` as programs read them: one JSON object, progress beside it, origins of settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.cli.terminal import TerminalProgress
from weft.cli.train import best

LABELS = {"billing": "invoice", "shipping": "parcel", "account": "login"}
BRIEF = ["--learning-rate", "1e-3", "--epochs", "1", "--lora-r", "4"]


def _never(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _call(capfd: Any, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    return int(end.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base, a file of labels, and the run `r` of it (by another process, its output kept)."""
    from weft.testing import save_base

    folder = tmp_path_factory.mktemp("work")
    save_base(folder / "tiny")
    names = [
        a + b + c
        for a in ("bo", "ka", "mi", "ta", "zu", "pe", "go")
        for b in ("ran", "vel", "dor", "lin")
        for c in "aeiou"
    ]
    labels = list(LABELS)
    rows = [f"{LABELS[labels[n * n % 7 % 3]]} {name},{labels[n * n % 7 % 3]}" for n, name in enumerate(names)]
    (folder / "a.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "notes").mkdir()
    (folder / "notes/one.md").write_text("An invoice is billing.\n\nA parcel is shipping.\n\nA login is an account.\n")
    command = ["run", "a.csv", "--base", "tiny", "--out", "r", "--docs", "notes", "--json", *BRIEF]
    done = subprocess.run(
        [sys.executable, "-m", "weft", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"},
    )
    (folder / "out.txt").write_text(done.stdout)
    (folder / "err.txt").write_text(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def weft(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in that folder: (exit code, stdout, stderr)."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(work)
    return lambda *arguments: _call(capfd, *arguments)


def test_json_is_one_object_with_all_that_is_promised(work: Path) -> None:
    report = json.loads((work / "out.txt").read_text(), parse_constant=_never)
    assert {"run", "base", "data", "task", "arms", "training", "verdict", "report", "adapter"} <= report.keys()
    assert {"rows", "train", "validation", "test", "findings"} <= report["data"].keys()
    assert report["data"]["rows"] == 140 == sum(report["data"][part] for part in ("train", "validation", "test"))
    for finding in report["data"]["findings"]:
        assert {"rule", "line", "severity", "message"} <= finding.keys()
    assert [arm["name"] for arm in report["arms"]] == [
        "zero-shot", "classical", "prompted", "few-shot", "rag", "tuned"
    ]  # fmt: skip
    for arm in report["arms"]:
        assert {"name", "split", "n", "metrics", "tokens_per_request", "seconds_per_request"} <= arm.keys()
        assert (arm["split"], arm["n"]) == ("test", report["data"]["test"])
        assert {"accuracy", "macro_f1", "exact_match", "format_consistency"} <= arm["metrics"].keys()
        assert ("log_loss" in arm["metrics"]) == (arm["name"] != "classical")
        for interval in arm["metrics"].values():
            assert interval["low"] <= interval["value"] <= interval["high"]
    assert {"trainable_parameters", "total_parameters", "steps", "best_step", "stopped_because", "seconds"} <= (
        report["training"].keys()
    )
    assert {"choice", "reason", "comparison"} <= report["verdict"].keys()
    assert {"arms", "difference", "low", "high", "p"} <= report["verdict"]["comparison"].keys()
    assert report["test_looks"] == 6
    assert (work / report["report"]).is_file() and (work / report["adapter"] / "adapter_config.json").is_file()
    assert json.loads((work / "r/report.json").read_text()) == report


def test_progress_is_plain_lines_on_stderr_when_piped(work: Path) -> None:
    said = (work / "err.txt").read_text()
    assert "\x1b" not in said + (work / "out.txt").read_text()
    assert "\r" not in said
    for stage in ("load the base", "read and check", "zero-shot on test", "rag on test", "train", "tuned on test"):
        assert f"  {stage} " in said


def test_the_report_for_people_has_no_colours_when_piped(weft: Any) -> None:
    code, out, err = weft("run", "r")
    assert code == 0 and "\x1b" not in out + err
    assert "Verdict" in out and "weft chat r" in out and "weft eval r" in out
    assert "this run is finished" in err


def test_settings_say_where_each_value_came_from(weft: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "my.yaml").write_text("base: tiny\nlearning_rate: 0.002\nepochs: 3\npatience: 7\nlora:\n  r: 2\n")
    monkeypatch.setenv("WEFT_EPOCHS", "2")
    monkeypatch.setenv("WEFT_PATIENCE", "5")
    assert weft("train", "a.csv", "--config", "my.yaml", "--out", "origins", "--epochs", 1)[0] == 0
    settings = json.loads((work / "origins/settings.json").read_text())["run"]
    assert settings["learning_rate"] == {"value": 0.002, "origin": "file my.yaml"}
    assert settings["patience"] == {"value": 5, "origin": "environment WEFT_PATIENCE"}
    assert settings["epochs"] == {"value": 1, "origin": "flag"}
    assert settings["batch_size"] == {"value": 16, "origin": "default"}
    assert (settings["lora"]["value"]["r"], settings["lora"]["value"]["alpha"]) == (2, 32.0)
    settled = json.loads((work / "origins/training.json").read_text())["settings"]
    assert settled["validate_every"]["origin"].startswith("auto: an epoch is ")
    assert settled["max_tokens"] == {"value": 256, "origin": "auto: the context of tiny"}


def test_a_run_without_a_name_is_found_again_by_its_settings(weft: Any, work: Path) -> None:
    code, out, _ = weft("train", "a.csv", "--base", "tiny", *BRIEF, "--json")
    first = json.loads(out, parse_constant=_never)
    assert code == 0 and first["run"].startswith("runs/a-") and (work / first["adapter"]).is_dir()
    assert json.loads(weft("train", "a.csv", "--base", "tiny", *BRIEF, "--json")[1]) == first
    other = json.loads(weft("train", "a.csv", "--base", "tiny", *BRIEF, "--seed", 1, "--json")[1])
    assert other["run"] != first["run"]
    assert weft("eval", first["run"], "--json")[0] == 0


@pytest.mark.parametrize("verb", ["run", "train"])
def test_resume_goes_on_with_a_run_and_never_begins_one(weft: Any, work: Path, verb: str) -> None:
    told = [verb, "a.csv", "--base", "tiny", *BRIEF, "--seed", 7]
    runs = sorted(work.glob("runs/*"))
    for out in ([], ["--out", "nowhere"]):
        code, said, err = weft(*told, *out, "--resume")
        looked_for = Path(out[-1]) if out else Path("runs")
        assert (code, said) == (2, "") and f"weft: {looked_for}" in err.splitlines()[-1]
        assert "--resume found no run here to go on with. Leave --resume out to begin one." in err
    assert not (work / "nowhere").exists() and sorted(work.glob("runs/*")) == runs
    first = json.loads(weft("train", "a.csv", "--base", "tiny", *BRIEF, "--seed", 7, "--json")[1])
    (work / first["run"] / "training.json").unlink()  # as if it had been interrupted: its checkpoints are there
    code, out, err = weft(*told, "--resume", "--json")
    assert code == 0 and json.loads(out)["run"] == first["run"], err
    shutil.rmtree(work / first["run"])


def test_resume_takes_the_folder_of_a_run_and_still_refuses_other_settings(weft: Any, work: Path) -> None:
    assert weft("train", "a.csv", "--base", "tiny", *BRIEF, "--out", "named")[0] == 0
    (work / "named/training.json").unlink()
    assert weft("train", "named", "--resume")[0] == 0 and (work / "named/training.json").is_file()
    assert "resume" not in (work / "named/settings.json").read_text()
    code, _, err = weft("train", "a.csv", "--base", "tiny", *BRIEF, "--out", "named", "--seed", 9, "--resume")
    assert code == 2 and "named: holds a run with other settings" in err


@pytest.mark.parametrize("method", ["dpo", "pretrain"])
def test_resume_never_begins_a_run_of_another_method(weft: Any, work: Path, method: str) -> None:
    pairs = [{"prompt": f"say {n * n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(60)]
    texts = [{"text": f"The number {n * n} is the square of {n}. " * 9} for n in range(60)]
    rows = pairs if method == "dpo" else texts
    (work / f"{method}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = weft("train", f"{method}.jsonl", "--method", method, "--base", "tiny", *BRIEF, "--resume")
    assert code == 2 and f"weft: runs/{method}-" in err and "--resume found no run here" in err
    assert list(work.glob(f"runs/{method}-*")) == []


def test_training_says_by_what_the_best_was_chosen(weft: Any, work: Path) -> None:
    told = ["train", "a.csv", "--base", "tiny", *BRIEF, "--stop-on", "accuracy", "--stop-rows", 8, "--out", "scored"]
    code, out, _ = weft(*told)
    record = json.loads((work / "scored/training.json").read_text())
    score, step, loss = record["best_measures"]["accuracy"], record["best_step"], record["best_loss"]
    said = f"best validation accuracy {score:.4f}, which chose step {step}; validation loss {loss:.4f} nats per token"
    assert code == 0 and f"{said} there\n" in out
    by_loss = best({**record, "chosen_by": "loss"}, "nats per token")
    assert by_loss == f"best validation loss {loss:.4f} nats per token at step {step}"
    last = best({**record, "chosen_by": "loss", "published_step": 99}, "nats per token")
    assert last == f"published: step 99, the last; best validation loss {loss:.4f} nats per token at step {step}"
    alone = best({**record, "best_step": None, "best_loss": None, "published_step": 99}, "nats per token")
    assert alone == "published: step 99, the last; there was no validation"


def test_eval_puts_two_runs_side_by_side(weft: Any, work: Path) -> None:
    assert weft("train", "a.csv", "--base", "tiny", *BRIEF, "--seed", 4, "--out", "r2")[0] == 0
    code, out, _ = weft("eval", "r", "r2", "--json")
    both = json.loads(out, parse_constant=_never)
    assert code == 0 and [report["run"] for report in both["runs"]] == ["r", "r2"]
    (comparison,) = both["comparisons"]
    assert (comparison["arms"], comparison["n"]) == (["r", "r2"], both["runs"][0]["data"]["test"])
    code, out, _ = weft("eval", "r", "r2")
    assert code == 0 and "r against r2: accuracy" in out and "McNemar exact" in out


def test_eval_refuses_to_compare_different_rows(weft: Any, work: Path) -> None:
    rows = (work / "a.csv").read_text().splitlines()
    (work / "b.csv").write_text("\n".join([rows[0], *(row.replace("invoice", "bill") for row in rows[1:])]) + "\n")
    assert weft("run", "b.csv", "--base", "tiny", *BRIEF, "--out", "rb")[0] == 0
    code, _, err = weft("eval", "r", "rb")
    assert code == 2 and "tested on different rows" in err


def test_eval_shows_a_run_that_needed_no_training(weft: Any, work: Path) -> None:
    (work / "few.csv").write_text("".join((work / "a.csv").read_text().splitlines(keepends=True)[:13]))
    code, out, _ = weft("run", "few.csv", "--base", "tiny", "--out", "few", "--json")
    assert code == 0 and json.loads(out)["verdict"]["choice"] == "more-data"
    code, out, _ = weft("eval", "few", "--json")
    assert code == 0 and json.loads(out)["runs"][0]["verdict"]["choice"] == "more-data"


def test_an_error_closes_the_moving_bar_and_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    progress = TerminalProgress()
    progress.console = Console(file=screen, force_terminal=True, color_system=None, legacy_windows=False)
    with pytest.raises(KeyboardInterrupt), progress:
        progress.start("train", 10, "steps")
        raise KeyboardInterrupt
    shown = screen.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0
