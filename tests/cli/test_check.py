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
