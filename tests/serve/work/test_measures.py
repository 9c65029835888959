"""A run's metrics in the API's words: names, sentences, the table, and the tail of a growing file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from weft.serve.work.measures import Tail, by_step, event_data, of_step, sentence
from weft.serve.work.protocol import StepMeasures
from weft.serve.work.table import step_metrics

TRAINED = {"step": 4, "loss": 0.1234, "learning_rate": 0.002, "gradient_norm": 1.5, "tokens": 99, "token_accuracy": 0.5}
LOOKED = {"step": 4, "validation_loss": 0.75, "validation_token_accuracy": 0.25}


def test_a_step_without_a_look_tells_the_training_loss_in_two_decimals() -> None:
    told = of_step([TRAINED], total=8, per_epoch=3)
    assert sentence(told) == "Step 4/8: training loss=0.12"
    assert event_data(told) == {
        "step": 4,
        "total_steps": 8,
        "train_loss": 0.1234,
        "train_mean_token_accuracy": 0.5,
    }


def test_a_look_adds_the_validation_loss_and_at_the_end_of_an_epoch_the_full_one() -> None:
    within = of_step([TRAINED, LOOKED], total=8, per_epoch=3)
    assert sentence(within) == "Step 4/8: training loss=0.12, validation loss=0.75"
    assert "full_valid_loss" not in within.values
    at_end = of_step([TRAINED, LOOKED], total=8, per_epoch=4)
    assert sentence(at_end) == "Step 4/8: training loss=0.12, validation loss=0.75, full validation loss=0.75"
    assert event_data(at_end) == {
        "step": 4,
        "total_steps": 8,
        "train_loss": 0.1234,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": 0.75,
        "valid_mean_token_accuracy": 0.25,
        "full_valid_loss": 0.75,
        "full_valid_mean_token_accuracy": 0.25,
    }


def test_what_else_a_method_measures_keeps_its_name() -> None:
    told = of_step([{"step": 1, "loss": 0.7, "reward_margin": 0.1}, {"step": 1, "validation_reward_margin": 0.2}], 9, 3)
    assert told.values == {"train_loss": 0.7, "train_reward_margin": 0.1, "valid_reward_margin": 0.2}


def test_the_table_has_the_services_columns_first_and_empty_cells_where_nothing_was_looked_at() -> None:
    steps = [of_step([{**TRAINED, "step": 3}], 8, 4), of_step([TRAINED, LOOKED], 8, 4)]
    table = step_metrics(steps).decode()
    assert table.split("\n")[0].startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["step"] for row in rows] == ["3", "4"]
    assert rows[0]["valid_loss"] == "" and rows[1]["valid_loss"] == "0.75"
    assert rows[0]["train_accuracy"] == rows[0]["train_mean_token_accuracy"] == "0.5"
    assert float(rows[1]["grad_norm"]) == 1.5


def test_a_methods_own_measures_are_the_last_columns() -> None:
    header = step_metrics([StepMeasures(step=1, total=1, values={"train_reward_margin": 1.0})]).split(b"\n")[0]
    assert header.endswith(b",grad_norm,train_reward_margin")


def test_the_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text('{"step": 1}\n{"st')
    assert tail.lines() == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert tail.lines() == [{"step": 2}]
    assert tail.lines() == []


def test_lines_of_a_step_go_together() -> None:
    lines = [json.loads(f'{{"step": {step}}}') for step in (1, 2, 2, 3)]
    assert {step: len(group) for step, group in by_step(lines).items()} == {1: 1, 2: 2, 3: 1}


def test_a_tail_may_begin_at_the_end_even_of_a_line_that_a_power_cut_tore(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert Tail(path, from_here=True).lines() == []
    path.write_text('{"event": "old"}\n{"ev')
    tail = Tail(path, from_here=True)
    with path.open("a") as file:
        file.write('{"event": "new"}\n')
    assert tail.lines() == [{"event": "new"}]
