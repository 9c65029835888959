"""The report in a terminal: complete, narrow enough, deaf to commands in the data."""

from __future__ import annotations

import io

import pytest

from weft.evaluate.report import charts
from weft.evaluate.terminal import print_report

Console = pytest.importorskip("rich.console").Console


def printed(report, width=80, **options) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=width, **options))
    return out.getvalue().replace("\u202f", " ")


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal(any_report, width):
    assert max(len(line) for line in printed(any_report, width).splitlines()) <= width


def test_piped_output_has_no_escape_codes_and_no_trailing_colour(any_report):
    assert "\x1b" not in printed(any_report)


def test_the_terminal_says_the_numbers_of_the_report(sample):
    report = sample("structured")
    text = printed(report)
    for arm in report["arms"]:
        measured = arm["metrics"]["accuracy"]
        line = next(line for line in text.splitlines() if line.startswith(arm["name"]))
        assert (
            f"{100 * measured['value']:.1f} % ({100 * measured['low']:.1f}\u2013{100 * measured['high']:.1f})" in line
        )
    assert "tuned *" in text and "+70.3 points" in text and "p < 0.001" in text
    assert "Best step: 200" in text and "weft chat runs/tickets-1a2b3c" in text
    assert "near-duplicate: line 101" in text and "(and 11 more)" in " ".join(text.split())


def test_answers_that_were_held_to_a_schema_are_said_to_be(sample):
    text = " ".join(printed(sample("structured")).split())
    assert "All answers were held to the JSON schema of the training answers (structured outputs)." in text
    assert "Format unaided: zero-shot 0.4 %" in text and "schema runs/tickets-1a2b3c/schema.json" in text
    assert "held to the JSON schema" not in printed(sample("structured") | {"schema": None})


def test_a_number_is_never_parted_from_its_unit(sample):
    assert not any(line.lstrip().startswith("%") for line in printed(sample("structured"), 60).splitlines())


def test_a_run_without_training_says_so(sample):
    text = printed(sample("more data"))
    assert text.startswith("Verdict: Collect more examples first.") and "Nothing was trained" in text


def test_a_best_step_that_a_score_chose_is_not_said_to_have_the_best_loss(sample):
    report = sample("structured")
    assert "Validation loss is best" in " ".join(printed(report).split())
    report["training"] |= {"chosen_by": "accuracy", "best_measures": {"accuracy": 0.8125}}
    text = " ".join(printed(report).split())
    assert "Best by: accuracy 0.812" in text and "Validation loss is best" not in text
    assert "The checkpoint of step 200 was kept for its validation accuracy 0.812; validation loss is" in text


def test_a_last_step_that_was_published_is_not_said_to_be_the_best(sample):
    report = sample("structured")
    report["training"] |= {"published_step": 240}
    text = " ".join(printed(report).split())
    assert "Best step: 200" in text and "Published step: 240" in text
    assert "at step 200; what was published is the last step, 240." in text


def test_markup_and_terminal_commands_in_the_data_are_shown_not_obeyed(sample):
    report = sample("structured")
    report["verdict"]["reason"] = "[bold red]loud[/] \x1b[2Jgone"
    report["arms"][0]["name"] = "[red]x"
    report["use"]["chat"] = "weft chat \x1b]0;title\x07 [link=x]y"
    text = printed(report, force_terminal=True)
    assert "[bold red]loud[/] \ufffd[2Jgone" in text and "[red]x" in text and "[link=x]y" in text
    assert "\x1b[2J" not in text and "\x1b]0;" not in text


def test_the_most_confused_labels_are_named(sample):
    assert "lights taken for heating: 3 of 20" in printed(sample("classification"))


def test_findings_beyond_the_first_kinds_are_counted(sample):
    report = sample("structured")
    report["data"]["findings"] = [
        {"rule": f"rule-{i}", "line": 0, "severity": "note", "message": "m"} for i in range(9)
    ]
    text = printed(report)
    assert "rule-5" in text and "rule-6" not in text and "and findings of 3 other kinds." in text


def test_a_curve_fits_into_a_line_and_keeps_its_ends() -> None:
    falling = [[step, 4.0 / step] for step in range(1, 400)]
    line = charts.in_a_line(falling, width=40)
    first, drawn, last = line.split()
    assert len(drawn) <= 40 and drawn[0] == "█" and drawn[-1] == "▁"
    assert float(first) > float(last)
    assert charts.in_a_line([[1, 2.0]]) == "" == charts.in_a_line(None)
