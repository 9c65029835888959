"""`weft check`: what a person reads, what a program reads, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from weft.cli import main

GOOD = "".join(
    f'{{"text": "ask {n * n} of {chr(97 + n % 26) * 9} and {chr(122 - n // 3) * 9}", "label": "{"ab"[n % 2]}"}}\n'
    for n in range(60)
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["check", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def write(folder: Path, text: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text(text)
    return path


def test_a_good_file_ends_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, write(tmp_path, GOOD))
    assert (code, err) == (0, "")
    assert "60 rows, 60 usable examples, text / label" in out.replace("\n", " ")
    assert "No flaw found." in out


def test_errors_end_with_one_and_name_line_rule_cost_and_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, write(tmp_path, GOOD + '{"text": NaN}\n' * 5))
    assert code == 1
    assert "json-constant" in out and "61" in out and "and 2 more rows" in out
    assert "cost: the row is left out" in out and "cure: Write null" in out
    assert "5 errors, 0 warnings, 0 notes" in out
    assert max(map(len, out.splitlines()[1:])) <= 80
    assert "\x1b" not in out


def test_markup_and_control_characters_in_data_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, write(tmp_path, GOOD + '{"messages": [{"role": "[red]\\u001b[31m", "content": ""}]}\n'))
    assert "[red]" in out and "\x1b" not in out


def test_json_is_one_object_with_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, write(tmp_path, GOOD + '{"text": NaN}\n' * 5), "--json")
    facts = json.loads(out)
    assert (code, err) == (1, "")
    assert (facts["rows"], facts["examples"], facts["layout"]) == (65, 60, "text / label")
    assert [finding["line"] for finding in facts["findings"]] == [61, 62, 63, 64, 65]
    assert set(facts["findings"][0]) == {"rule", "line", "severity", "message", "cost", "cure"}


def test_a_file_without_one_good_row_still_lists_its_flaws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, write(tmp_path, "{\n[]\n{1}\n"), "--json")
    facts = json.loads(out)
    assert (code, facts["examples"]) == (1, 0)
    assert facts["findings"]


def test_misuse_ends_with_two_and_says_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tmp_path / "nothing.jsonl")
    assert (code, out) == (2, "") and "no such file" in err
    code, _, err = run(capsys, write(tmp_path, GOOD), "--input", "txt", "--output", "label")
    assert code == 2 and "did you mean 'text'?" in err


def test_fix_writes_a_file_that_passes_and_says_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, GOOD + '{"text": NaN}\n' + GOOD.splitlines()[0])
    mended = tmp_path / "mended.jsonl"
    code, out, _ = run(capsys, data, "--fix", mended)
    assert code == 1
    assert (
        "60 examples" in out
        and "1 row left out that could not be read" in out
        and "1 row left out that repeated" in out
    )
    assert run(capsys, mended)[0] == 0
    code, _, err = run(capsys, data, "--fix", mended)
    assert code == 2 and "is there already" in err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from weft.testing import save_base

    return str(save_base(tmp_path_factory.mktemp("base") / "tiny"))


LONG = json.dumps({"text": "a very long question " * 20, "label": "a"}) + "\n"


def test_lengths_are_judged_by_a_base_without_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("weft.models.load._model")
    data = write(tmp_path, GOOD + LONG)
    code, out, err = run(capsys, data, "--base", tiny)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    # 420 bytes of question, one of answer; "user", "assistant" and three line breaks; two control tokens each
    assert "1 example longer than the context of 256 tokens (line 61); the longest has 441" in said
    assert "cost: 2 % of the examples cannot be learned" in said and "cure: Shorten them" in said
    assert f"Lengths are judged by the context of {tiny}, 256 tokens." in out
    facts = json.loads(run(capsys, data, "--base", tiny, "--json")[1])
    assert facts["lengths"] == {"base": tiny, "context": 256}
    assert [finding["rule"] for finding in facts["findings"]] == ["too-long"]


def test_most_examples_beyond_the_context_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: str
) -> None:
    rows = GOOD.replace("ask", "a very long question " * 20)
    assert run(capsys, write(tmp_path, rows), "--base", tiny)[0] == 1


def test_without_a_base_it_is_said_that_lengths_are_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path, GOOD + LONG)
    assert run(capsys, data)[1].endswith("No flaw found.\nLengths are not judged: name a base with --base.\n")
    assert json.loads(run(capsys, data, "--json")[1])["lengths"] is None


def test_a_base_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, GOOD)
    code, out, err = run(capsys, data, "--base", tmp_path / "nothing")
    assert (code, out) == (2, "") and "there is no such folder" in err and "A base is 'weft-nano'" in err
    code, out, err = run(capsys, data, "--base", data)
    assert (code, out) == (2, "") and "is a file; name the folder" in err
    code, out, err = run(capsys, data, "--base", tmp_path)  # as `weft run` ends
    assert (code, out) == (3, "") and "this is not a base model that weft can load" in err


def test_rows_that_are_in_the_validation_file_too_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = "I bought a blue kettle last week and it has never once worked properly"
    data = write(tmp_path, GOOD + json.dumps({"text": near, "label": "a"}) + "\n")
    rows = [*GOOD.splitlines()[4:6], json.dumps({"text": near + " yet", "label": "b"})]
    rows += [json.dumps({"text": chr(98 + n) * 9 + " " + chr(110 + n) * 9, "label": "b"}) for n in range(7)]
    validation = tmp_path / "validation.jsonl"
    validation.write_text("\n".join(rows) + "\n")
    code, out, _ = run(capsys, data, "--validation", validation)
    said = " ".join(out.split())
    assert code == 0
    assert f"{validation}: 10 rows, 10 usable examples" in out and "too-few" not in out
    assert "2 questions are also in the validation file (lines 5, 6)" in said
    assert "1 question is almost word for word in the validation file (line 61)" in said
    assert "cost: up to 20 % of the validation file measures memory instead of skill" in said
    assert "cure: Remove them from one of the two files" in said
    facts = json.loads(run(capsys, data, "--validation", validation, "--json")[1])
    assert [(one["rule"], one["line"]) for one in facts["findings"]] == [("overlap", 5), ("near-overlap", 61)]
    assert (facts["validation"]["examples"], facts["validation"]["findings"]) == (10, [])


def test_a_validation_file_of_other_rows_overlaps_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validation = tmp_path / "validation.jsonl"
    validation.write_text('{"text": "quite another thing", "label": "a"}\n')
    code, out, _ = run(capsys, write(tmp_path, GOOD), "--validation", validation)
    assert code == 0 and out.count("No flaw found.") == 2


def test_errors_of_the_validation_file_end_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, validation = write(tmp_path, GOOD), tmp_path / "validation.jsonl"
    validation.write_text(GOOD + '{"text": NaN}\n')
    code, out, _ = run(capsys, data, "--validation", validation, "--json")
    facts = json.loads(out)
    assert code == 1
    assert [one["rule"] for one in facts["validation"]["findings"]] == ["json-constant"]
    assert [one["rule"] for one in facts["findings"]] == ["overlap"]
    validation.write_text("{\n")
    code, out, _ = run(capsys, data, "--validation", validation)
    assert code == 1 and "0 usable examples" in out
    code, out, err = run(capsys, data, "--validation", tmp_path / "nothing.jsonl")
    assert (code, out) == (2, "") and "no such file" in err


def test_a_thousand_rows_need_neither_torch_nor_much_time(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("ask", "a somewhat longer question about kettles") * 17)
    program = (
        "import sys, time; from weft.cli import main\n"
        "try: main(['check', sys.argv[1], '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'polars'} & set(sys.modules)\n"
        "print(time.process_time(), sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    seconds, heavy = done.stderr.split(" ", 1)
    assert json.loads(done.stdout)["rows"] == 1020
    assert float(seconds) < 1
    assert heavy.strip() == "[]"
