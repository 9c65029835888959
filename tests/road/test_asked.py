"""A file that is no data is refused at once: before any weights load, and where it is for `weft run` before torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.errors import UsageError, WeftError
from weft.models import load
from weft.road.asked import examples_asked

NO_DATA: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 1, "the file is empty"),
    "binary": (bytes(range(256)) * 20, 1, "binary file"),
    "prose": (b"Dear all\nplease find the examples below.\n", 1, "neither JSONL nor a table"),
    "broken": (b'{"prompt": 1\n' * 12, 1, "none of its 12 rows can be read"),
    "other keys": (b'{"foo": "a", "bar": "b"}\n' * 20, 2, "no row fits a known layout"),
}


def _refused(monkeypatch: pytest.MonkeyPatch, capfd: Any, *arguments: object) -> tuple[int, str]:
    def loads(*_: Any, **__: Any) -> Any:
        raise AssertionError("a base was looked at")

    monkeypatch.setattr("weft.road.begin.locate", loads)
    monkeypatch.setattr(load, "load", loads)
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert out == "" and "load the base" not in err
    return int(ended.value.code or 0), err


@pytest.mark.parametrize("verb", [("run",), ("train",)])
@pytest.mark.parametrize("kind", NO_DATA)
def test_a_file_that_is_no_data_is_refused_before_a_base_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, kind: str, verb: tuple[str, ...]
) -> None:
    content, code, said = NO_DATA[kind]
    (tmp_path / "data.jsonl").write_bytes(content)
    ended, err = _refused(monkeypatch, capfd, *verb, tmp_path / "data.jsonl")
    assert ended == code and said in err
    with pytest.raises(WeftError, match=said) as same:  # what Python's callers meet
        examples_asked(str(tmp_path / "data.jsonl"), None, None, {})
    assert f"weft: {same.value}" == err.strip() and same.value.exit_code == code


@pytest.mark.parametrize(
    ("method", "said"), [("dpo", "none of its 12 rows"), ("pretrain", "nothing in it can be read as a document")]
)
def test_so_are_files_that_hold_no_pairs_or_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, method: str, said: str
) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"foo": "a"}\n' * 12)
    code, err = _refused(monkeypatch, capfd, "train", tmp_path / "data.jsonl", "--method", method)
    assert code == 1 and said in err


def test_a_column_that_is_not_there_and_another_method_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(UsageError, match="'txt' is no column"):
        examples_asked(str(tmp_path / "a.csv"), None, None, {"input": "txt", "output": "label"})
    (tmp_path / "dpo.yaml").write_text("method: dpo\n")
    with pytest.raises(UsageError, match=r"--method dpo learns from pairs.*weft train"):
        examples_asked(str(tmp_path / "a.csv"), None, str(tmp_path / "dpo.yaml"), {})
    wanted = examples_asked(str(tmp_path / "a.csv"), "r", None, {"input": "text", "output": "label", "epochs": 2})
    assert (wanted.data, wanted.out, wanted.settings.config.epochs) == (str(tmp_path / "a.csv"), "r", 2)


def test_no_heavy_library_is_imported_to_refuse_a_file(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(NO_DATA["prose"][0])
    told = (
        "import sys; from weft.cli import main\n"
        "try: main(['run', sys.argv[1]])\n"
        "except SystemExit as ended: print(ended.code, {'torch', 'transformers', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", told, str(tmp_path / "data.jsonl")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1 set()" and "neither JSONL nor a table" in done.stderr
