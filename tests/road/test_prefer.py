"""`weft train --method dpo` from a file of pairs to an adapter, a figure on sealed pairs, and the same bytes again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.data.split import Split
from weft.errors import DataError
from weft.road.judge_pairs import require_pairs
from weft.testing import tiny_base
from weft.train import steps

BRIEF = ["--learning-rate", "3e-3", "--batch-size", "4", "--epochs", "3", "--lora-r", "4"]
NAMES = [a + b + c for a in ("bo", "ka", "mi", "ta") for b in ("ran", "vel", "dor", "lin") for c in "aeiou"]


@pytest.fixture
def weft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in a folder with 80 pairs and 80 chats: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Who is {n}?", "chosen": f"please, {n}", "rejected": f"no {n}"} for n in NAMES]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(end.value.code or 0), said.out, said.err

    return run


def _dpo(tiny: str, *more: str) -> list[str]:
    return ["train", "pairs.jsonl", "--method", "dpo", "--base", tiny, *BRIEF, *more]


def test_pairs_become_an_adapter_and_a_figure_on_sealed_pairs(weft: Any, tiny: str) -> None:
    code, out, err = weft(*_dpo(tiny, "--out", "r", "--json"))
    assert code == 0, err
    record = json.loads(out)
    training = record["training"]
    assert Path(record["adapter"], "adapter_config.json").is_file()
    assert training["best_measures"]["reward_accuracy"] >= 0.9
    test = training["test"]
    assert test["pairs"] == 17 and test["gained_more"]["value"] >= 0.9 and test["gained_more"]["low"] > 0.5
    assert test["likelier"]["tuned"]["value"] >= test["likelier"]["base"]["value"]
    assert test["difference"]["arms"] == ["tuned", "base"]
    assert json.loads(Path("r/scorecards/pairs.test.json").read_text()) == test
    settled = training["settings"]
    assert (settled["beta"], settled["loss"]["value"]) == ({"value": 0.1, "origin": "default"}, "sigmoid")
    assert settled["learning_rate"] == {"value": 0.003, "origin": "flag"} and "learn" not in settled
    for stage in ("load the base", "read and split", "reference", "train", "base and tuned on test"):
        assert f"  {stage} " in err
    looks = [json.loads(line) for line in Path("r/events.jsonl").read_text().splitlines() if "looked" in line]
    assert [(look["arm"], look["rows"]) for look in looks] == [("base", 17), ("tuned", 17)]
    # Shown again, by the folder, without another look; and for people.
    code, out, _ = weft("train", "r")
    assert code == 0 and Path("r/events.jsonl").read_text().count("looked") == 2
    assert "on 17 test pairs the better reply gained more in" in out and "next: weft chat r" in out
    assert "weft eval" not in out
    assert weft("chat", "r", "--prompt", "Who is x?", "--max-tokens", "4", "--json")[0] == 0


def test_pairs_beyond_the_context_are_counted_and_named_in_every_part(weft: Any, tiny: str) -> None:
    long = [{"prompt": f"Who is {n}?" + "!" * 300, "chosen": f"please, {n}", "rejected": f"no {n}"} for n in NAMES[::4]]
    lines = range(81, 81 + len(long))
    with Path("pairs.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in long)
    code, out, err = weft(*_dpo(tiny, "--out", "r", "--epochs", "1", "--json"))
    assert code == 0, err
    record = json.loads(out)["training"]
    parts = [record["skipped_lines"], record["skipped_validation_lines"], record["test"]["skipped_lines"]]
    assert all(parts) and sorted(line for part in parts for line in part) == list(lines)
    for part, name in zip(parts, ("training", "validation", "test"), strict=True):
        assert f"Left out of the {name} part as longer than 256 tokens: {len(part)} (line" in err
    card = json.loads(Path("r/scorecards/pairs.test.json").read_text())
    assert card["skipped_lines"] == parts[2] and card["pairs"] > 0


def test_test_pairs_that_are_all_too_long_are_refused_before_anything_is_trained(
    weft: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_in_test(examples: Any) -> Split:
        return Split(train=tuple(examples[:70]), validation=tuple(examples[70:80]), test=tuple(examples[80:]))

    monkeypatch.setattr("weft.road.prefer.split", last_in_test)
    with Path("pairs.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "!" * 600, "chosen": "yes", "rejected": "no"}) + "\n")
    code, _, err = weft(*_dpo(tiny, "--out", "r"))
    assert code == 1 and "the sealed test part: none of the 1 pairs fits into 256 tokens" in err
    assert not Path("r").exists()


def test_a_sealed_part_without_pairs_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(DataError, match=r"sealed test part holds no pairs: .* Add pairs with prompts that differ"):
        require_pairs(tiny_base(), [])


def test_a_training_on_pairs_that_is_interrupted_ends_in_the_same_bytes(
    weft: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weft(*_dpo(tiny, "--out", "whole", "--epochs", "1"))[0] == 0
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save

    def dies(run: Any, state: Any, *rest: Any) -> None:
        save(run, state, *rest)
        if state.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "save", dies)
    assert weft(*_dpo(tiny, "--out", "cut", "--epochs", "1"))[0] == 130
    assert not Path("cut/adapter").exists()
    monkeypatch.setattr(steps, "save", save)
    assert weft("train", "cut")[0] == 0
    names = (
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "metrics.jsonl",
        "scorecards/pairs.test.json",
    )
    assert [name for name in names if Path("cut", name).read_bytes() != Path("whole", name).read_bytes()] == []


def test_what_belongs_to_the_other_method_is_refused(weft: Any, tiny: str) -> None:
    base = ["--base", tiny]
    for arguments, said in (
        (
            ["train", "chats.jsonl", "--method", "dpo", *base],
            "none of its 80 rows can be used. Line 1 is no preference",
        ),
        (["train", "pairs.jsonl", *base], "its 80 rows are preference pairs"),
        (["run", "pairs.jsonl", *base], "weft train pairs.jsonl --method dpo"),
    ):
        code, out, err = weft(*arguments)
        assert (code, out) == (1, "") and said in err
    for arguments, said in (
        (["train", "chats.jsonl", "--beta", "0.2", "--loss", "ipo"], "--beta, --loss: a setting of --method dpo"),
        (
            ["train", "pairs.jsonl", "--method", "dpo", "--neftune-alpha", "5"],
            "--neftune-alpha: a setting of --method sft",
        ),
        (["train", "pairs.jsonl", "--method", "dop"], "Input should be 'sft', 'dpo' or 'pretrain'"),
        (["run", "pairs.jsonl", "--method", "dpo"], "no one ideal answer to measure the arms by"),
    ):
        code, out, err = weft(*arguments)
        assert (code, out) == (2, "") and said in err
    assert not Path("runs").exists()


def test_a_run_on_pairs_is_not_measured_as_answers_are(weft: Any, tiny: str) -> None:
    assert weft(*_dpo(tiny, "--out", "r", "--epochs", "1"))[0] == 0
    for verb in ("run", "eval"):
        code, _, err = weft(verb, "r")
        assert code == 2 and "learns from pairs" in err and "weft chat" in err
    code, _, err = weft("train", "r", "--method", "sft")
    assert code == 2 and "`method` is 'sft'" in err
    code, _, err = weft(*_dpo(tiny, "--out", "r", "--epochs", "1", "--beta", "0.5"))
    assert code == 2 and "beta" in err and "Name another folder" in err


def test_method_and_its_settings_may_stand_in_a_file(weft: Any, tiny: str) -> None:
    Path("my.yaml").write_text(f"method: dpo\nbase: {tiny}\nbeta: 0.5\nepochs: 1\nlora:\n  r: 2\n")
    code, out, err = weft("train", "pairs.jsonl", "--config", "my.yaml", "--out", "r", "--json")
    assert code == 0, err
    assert json.loads(out)["training"]["settings"]["beta"] == {"value": 0.5, "origin": "file my.yaml"}
    Path("my.yaml").write_text("method: dpo\nbetta: 0.5\n")
    code, _, err = weft("train", "pairs.jsonl", "--config", "my.yaml")
    assert code == 2 and "unknown setting `betta` (file my.yaml). Did you mean `beta`?" in err


def test_too_few_pairs_name_the_rows_that_cannot_be_used(weft: Any, tiny: str) -> None:
    rows = Path("pairs.jsonl").read_text().splitlines()[:9]
    Path("few.jsonl").write_text("\n".join([*rows, '{"prompt": "Hi", "chosen": "a", "rejected": "a"}']) + "\n")
    code, _, err = weft("train", "few.jsonl", "--method", "dpo", "--base", tiny)
    assert code == 1 and "9 of 10 rows are usable as preference pairs; at least 10 are needed" in err
    assert "line 10: has the same text" in err


def test_help_lists_the_flags_of_every_method(weft: Any) -> None:
    code, out, _ = weft("train", "--help")
    assert code == 0
    for flag in (
        "--method [sft|dpo|pretrain]",
        "--beta",
        "--loss [sigmoid|ipo]",
        "--neftune-alpha",
        "--lora-plus-ratio",
    ):
        assert flag in out
    assert out.count("--learning-rate") == 1
