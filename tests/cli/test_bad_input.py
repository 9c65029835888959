"""Bad input at the command line: what was found, what was expected, what to do; the exit code; nothing half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main

Weft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from weft.testing import save_base

    return str(save_base(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture
def weft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Weft:
    """Runs the command in an empty folder: (exit code, stdout, stderr)."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(_rows(120))

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(end.value.code or 0), said.out, said.err

    return run


def _rows(count: int, answer: str = "answer {n}") -> str:
    words = ("kettle", "window", "parcel", "garden", "ticket", "lantern", "bridge", "copper", "violin", "meadow")
    return "".join(
        json.dumps({"prompt": f"{words[n % 10]} {words[n // 10 % 10]} {n * n}", "completion": answer.format(n=n)})
        + "\n"
        for n in range(count)
    )


def _refused(weft: Weft, code: int, *said: str, arguments: list[object]) -> None:
    """The command ends with `code`, says all of `said` on stderr, prints nothing and leaves no run behind."""
    got, out, err = weft(*arguments)
    assert (got, out) == (code, ""), err
    for text in said:
        assert text in err
    assert not Path("runs").exists()


FILES: dict[str, tuple[bytes, int, tuple[str, ...]]] = {
    "empty": (b"", 1, ("the file is empty", "expected one example per line")),
    "blank": (b"\n \n\n", 1, ("the file is empty",)),
    "binary": (bytes(range(256)) * 20, 1, ("binary file", "expected JSONL, JSON or CSV", "Name a file of examples")),
    "gzip": (b"\x1f\x8b\x08" + bytes(200), 1, ("gzip archive", "gunzip")),
    "utf-16": (_rows(20).encode("utf-16"), 1, ("the text is UTF-16", "expected UTF-8", "iconv -f UTF-16")),
    "latin-1": (
        "text,label\ncaf\xe9,a\nth\xe9,b\n".encode("latin-1"),
        1,
        ("line 2 is not UTF-8", "byte 0xE9", "iconv -f WINDOWS-1252"),
    ),
    "three rows": (_rows(3).encode(), 1, ("3 of 3 rows are usable", "at least 10 are needed", "Add examples")),
    "empty answers": (_rows(40, "").encode(), 1, ("0 of 40 rows are usable", "all answers are empty")),
    "prose": (b"Dear all\nplease find the examples below.\n", 1, ("neither JSONL nor a table", "Expected one JSON")),
    "header alone": (b"text,label\n", 1, ("there is a header and nothing below it",)),
    "broken lines": (b'{"prompt": 1\n' * 12, 1, ("none of its 12 rows can be read", "line 1")),
    "other keys": (b'{"foo": "a", "bar": "b"}\n' * 20, 2, ("no row fits a known layout", "--input FIELD")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used_is_named_with_its_flaw(weft: Weft, tiny: str, name: str) -> None:
    content, code, said = FILES[name]
    Path("data.jsonl").write_bytes(content)
    _refused(weft, code, "data.jsonl", *said, arguments=["run", "data.jsonl", "--base", tiny])


def test_a_path_that_is_no_file_is_refused_before_the_base_is_loaded(weft: Weft, tiny: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for name, said in {
        "missing.jsonl": "no such file",
        "folder": "a folder, and not a run folder",
        "pipe": "not a regular file",
    }.items():
        code, out, err = weft("run", name, "--base", tiny)
        assert (code, out) == (2, "") and said in err and "load the base" not in err


def test_a_row_beyond_the_limit_is_named_and_the_others_are_used(
    weft: Weft, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.data.formats.lines import Lines

    monkeypatch.setattr(Lines.__init__, "__kwdefaults__", {"keep_blank": False, "limit": 1000})
    long = json.dumps({"prompt": "x" * 3000, "completion": "y"}) + "\n"
    Path("data.jsonl").write_text(long + _rows(5))
    said = ("line 1: is 3,034 bytes long; a row may have at most 1,000", "5 of 6 rows are usable")
    _refused(weft, 1, *said, arguments=["run", "data.jsonl", "--base", tiny])


@pytest.mark.slow
def test_a_line_of_100_megabytes_is_left_out_and_named(weft: Weft, tiny: str) -> None:
    with Path("data.jsonl").open("w") as file:
        file.write('{"prompt": "' + "x" * 100_000_000 + '", "completion": "y"}\n' + _rows(5))
    _refused(weft, 1, "line 1: is 100,0", "5 of 6 rows", arguments=["run", "data.jsonl", "--base", tiny])


def test_unknown_columns_are_named_with_those_that_are_there(weft: Weft, tiny: str) -> None:
    Path("data.csv").write_text("text,label\n" + "".join(f"t{n},l{n % 2}\n" for n in range(30)))
    arguments = ["run", "data.csv", "--base", tiny, "--input", "txt", "--output", "category"]
    _refused(weft, 2, "'txt' is no column", "did you mean 'text'?", "'label'", arguments=arguments)
    _refused(weft, 2, "--input and --output go together", arguments=[*arguments[:4], "--input", "text"])


def test_a_base_that_is_not_there_or_not_a_base_is_refused(weft: Weft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_OFFLINE", "1")
    Path("empty").mkdir()
    run = ["run", "good.jsonl", "--base"]
    _refused(weft, 2, "base 'weft-nan'", "Did you mean 'weft-nano'?", arguments=[*run, "weft-nan"])
    _refused(weft, 2, "'./nowhere'", "there is no such folder", arguments=[*run, "./nowhere"])
    _refused(weft, 2, "is a file; name the folder", arguments=[*run, "good.jsonl"])
    said = ("there is no config.json", "there are no weights", "there is no tokenizer")
    _refused(weft, 3, *said, arguments=[*run, "./empty"])


def test_a_base_that_would_run_code_is_refused_without_running_it(weft: Weft, tiny: str) -> None:
    import pickle
    import shutil

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, ("sprung",)

    shutil.copytree(tiny, "pickled")
    Path("pickled/pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    shutil.copytree(tiny, "remote")
    config = json.loads(Path("remote/config.json").read_text())
    Path("remote/config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "code.Model"}}))
    Path("remote/code.py").write_text("import os; os.mkdir('sprung')")
    run = ["run", "good.jsonl", "--base"]
    said = ("pickles, which can run code", "pytorch_model.bin", "safetensors only")
    _refused(weft, 3, *said, arguments=[*run, "./pickled"])
    _refused(weft, 3, "`auto_map`", "weft runs no remote code", arguments=[*run, "./remote"])
    assert not Path("sprung").exists()


def test_too_little_memory_is_said_before_anything_is_loaded(
    weft: Weft, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.models import load, memory

    monkeypatch.setattr(memory, "available_bytes", lambda root=None: 10_000_000)
    monkeypatch.setattr(load, "_model", lambda *a: pytest.fail("the model was loaded"))
    said = ("27,040 parameters", "of memory, 0.01 GB are free", "Choose a smaller base")
    _refused(weft, 3, *said, arguments=["run", "good.jsonl", "--base", tiny])


def test_memory_that_runs_out_later_ends_in_a_sentence(weft: Weft, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.road import whole

    def greedy(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(whole, "measure_arms", greedy)
    code, _, err = weft("run", "good.jsonl", "--base", tiny, "--out", "r")
    assert code == 3 and "out of memory. Use a smaller base" in err


def test_wrong_settings_are_named_all_at_once_with_their_origin(
    weft: Weft, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my.yaml").write_text("learning_rat: 0.1\nbatch_size: many\n")
    monkeypatch.setenv("WEFT_PATIENCE", "0")
    said = (
        "unknown setting `learning_rat` (file my.yaml). Did you mean `learning_rate`?",
        "setting `batch_size` is 'many' (file my.yaml)",
        "setting `patience` is '0' (environment WEFT_PATIENCE)",
        "setting `test_rows` is 3 (flag)",
    )
    arguments = ["run", "good.jsonl", "--base", tiny, "--config", "my.yaml", "--test-rows", 3]
    _refused(weft, 2, *said, arguments=arguments)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "abc"], "'abc'"),
        (["--lora-r", "0"], "`lora.r` is 0"),
        (["--lora-r", "500"], "above the size of"),
        (["--lora-targets", "q_prog"], "Did you mean 'q_proj'"),
        (["--task", "poetry"], "'classification', 'structured' or 'text'"),
        (["--grader", "taste"], "unknown grader. Choose one of"),
        (["--docs", "nowhere"], "--docs nowhere: not a folder"),
        (["--config", "nowhere.yaml"], "Name an existing YAML file"),
        (["--method", "magic"], "'sft'"),
        (["--learning-rat", "1"], "--learning-rate"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_measured(
    weft: Weft, tiny: str, flags: list[str], said: str
) -> None:
    _refused(weft, 2, said, arguments=["run", "good.jsonl", "--base", tiny, *flags])


def test_examples_that_leave_nothing_to_learn_are_refused_before_anything_is_measured(weft: Weft, tiny: str) -> None:
    said = ("leaves a token to learn within 10 tokens", "Raise --max-tokens")
    _refused(weft, 3, *said, arguments=["run", "good.jsonl", "--base", tiny, "--max-tokens", 10])


def test_training_on_one_repeated_row_says_that_there_is_nothing_to_stop_by(weft: Weft, tiny: str) -> None:
    Path("same.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 40)
    code, _, err = weft("train", "same.jsonl", "--base", tiny, "--out", "r")
    assert code == 3 and "no validation examples" in err and "Add examples that differ" in err
    assert not Path("r/adapter").exists()


def test_a_folder_that_may_not_be_written_names_the_way_out(
    weft: Weft, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", "good.jsonl", "--base", tiny, "--out"]
    _refused(weft, 3, "/proc/weft: cannot be written", "--out", arguments=[*run, "/proc/weft"])
    _refused(weft, 2, "exists and is not a run folder. Name another with --out", arguments=[*run, "."])
    _refused(weft, 2, "exists and is not a run folder. Name another with --out", arguments=[*run, "good.jsonl"])

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    _refused(weft, 3, "no permission to write here. Name another folder with --out", arguments=[*run, "r"])


def test_a_run_folder_with_damaged_settings_is_named(weft: Weft) -> None:
    Path("r").mkdir()
    for content, said in {
        "{": "unreadable",
        "{}": "not the settings of a run",
        '{"run": {"sed": {}}}': "not the",
    }.items():
        Path("r/settings.json").write_text(content)
        code, out, err = weft("run", "r")
        assert (code, out) == (3, "") and "r/settings.json" in err and said in err


def test_a_run_of_an_earlier_weft_names_the_settings_that_it_lacks(weft: Weft, tiny: str) -> None:
    assert weft("train", "good.jsonl", "--base", tiny, "--out", "r", "--epochs", 1)[0] == 0
    settings = json.loads(Path("r/settings.json").read_text())
    del settings["run"]["structured_outputs"], settings["run"]["seed"]
    Path("r/settings.json").write_text(json.dumps(settings))
    for verb in ("run", "eval"):
        code, out, err = weft(verb, "r")
        assert (code, out) == (3, "") and "Start a new run with the file of examples" in err
        assert "not the settings of a run of this weft (no structured_outputs, seed, which a weft before" in err


def test_a_wrong_flag_for_an_existing_run_is_refused_in_words(weft: Weft, tiny: str) -> None:
    assert weft("train", "good.jsonl", "--base", tiny, "--out", "r", "--epochs", 1)[0] == 0
    code, _, err = weft("run", "r", "--batch-size", 0)
    assert code == 2 and "setting `batch_size` is 0 (flag)" in err
    code, _, err = weft("run", "r", "--seed", 3)
    assert code == 2 and "run.seed.value: 0 -> 3" in err and "--out" in err
    Path("good.jsonl").write_text(_rows(121))
    code, _, err = weft("run", "r")
    assert code == 2 and "data_sha256" in err
    Path("good.jsonl").unlink()
    code, _, err = weft("run", "r")
    assert code == 2 and "good.jsonl: no such file" in err


def test_eval_and_chat_name_what_is_not_a_run_or_model(weft: Weft, tiny: str) -> None:
    Path("folder").mkdir()
    for verb, name, code, said in (
        ("eval", "nowhere", 2, "not a run folder"),
        ("eval", "folder", 2, "Runs lie under `runs/`"),
        ("chat", "./nowhere", 2, "there is no such folder"),
        ("chat", "folder", 3, "there is no config.json"),
    ):
        got, out, err = weft(verb, name)
        assert (got, out) == (code, "") and said in err
    code, _, err = weft("chat", tiny, tiny, tiny)
    assert code == 2 and "3 models given; one, or two side by side" in err
    code, _, err = weft("chat", tiny, "--json")
    assert code == 2 and "give the question with --prompt" in err
