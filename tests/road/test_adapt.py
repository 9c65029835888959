"""`weft train --method pretrain` from a folder of texts to an adapter, perplexities on sealed texts, the same bytes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.cli import main
from weft.models.load import load
from weft.progress import Silent
from weft.records import Document
from weft.road.judge_documents import document_nats
from weft.train import steps
from weft.train.documents import Writer

BRIEF = ["--learning-rate", "5e-3", "--epochs", "2", "--lora-r", "4", "--max-tokens", "64"]
WORDS = [a + b for a in ("bo", "ka", "mi", "ta") for b in ("ran", "vel", "dor", "lin", "su")]


def _texts(count: int, seed: int, words: list[str]) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randrange(4, 30))) for _ in range(count)]


@pytest.fixture
def weft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in a folder with 40 texts and 40 general ones: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for number, text in enumerate(_texts(40, 1, WORDS)):
        Path("docs", f"{number:02}.txt").write_text(text + "\n")
    rows = [json.dumps({"text": text}) for text in _texts(40, 2, [word.upper() for word in WORDS])]
    Path("general.jsonl").write_text("\n".join(rows) + "\n")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(end.value.code or 0), said.out, said.err

    return run


def _pretrain(tiny: str, *more: str) -> list[str]:
    return ["train", "docs", "--method", "pretrain", "--base", tiny, *BRIEF, *more]


def _perplexity(model: Any, rows: Iterable[Any]) -> float:
    """What transformers says, row by row."""
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        total -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        tokens += len(row.ids) - 1
    return math.exp(total / tokens)


def test_texts_become_an_adapter_and_perplexities_on_sealed_texts(weft: Any, tiny: str) -> None:
    code, out, err = weft(
        *_pretrain(tiny, "--replay", "general.jsonl", "--replay-share", "0.25", "--out", "r", "--json")
    )
    assert code == 0, err
    training = json.loads(out)["training"]
    assert json.loads(Path("r/training.json").read_text()) == training
    assert set(training["test"]) == {"documents", "replay"}
    own = training["test"]["documents"]
    assert own["after"]["value"] < own["before"]["value"] and own["ratio"]["high"] < 1
    assert "replay_loss" in training["best_measures"]
    assert training["settings"]["replay_share"] == {"value": 0.25, "origin": "flag"}
    for stage in ("load the base", "read documents", "read replay", "train", "base and tuned on test"):
        assert f"  {stage} " in err
    assert "40 text files;" in err and "40 rows of 1 JSON file;" in err
    # The figures are those of transformers and PEFT on the same rows.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    card = json.loads(Path("r/scorecards/documents.test.json").read_text())
    rows = {"documents": [], "replay": []}
    general = [json.loads(line)["text"] for line in Path("general.jsonl").read_text().splitlines()]
    for sealed in card["nats"]:
        kind = "replay" if sealed["line"] else "documents"
        text = general[sealed["line"] - 1] if sealed["line"] else Path("docs", sealed["file"]).read_text().rstrip("\n")
        rows[kind] += Writer.of(load(tiny), 64).rows(Document(text, ""))
    model: Any = AutoModelForCausalLM.from_pretrained(tiny)
    for kind in rows:
        assert training["test"][kind]["before"]["value"] == pytest.approx(_perplexity(model, rows[kind]), rel=1e-6)
    model = PeftModel.from_pretrained(model, "r/adapter")
    for kind in rows:
        assert training["test"][kind]["after"]["value"] == pytest.approx(_perplexity(model, rows[kind]), rel=1e-5)
    # Shown again, by the folder, without another look; and for people.
    code, out, _ = weft("train", "r")
    assert code == 0 and Path("r/events.jsonl").read_text().count("looked") == 2
    assert "perplexity on " in out and " test documents (" in out and "forgetting, on " in out
    assert "next: weft chat r" in out and "weft eval" not in out
    assert weft("chat", "r", "--prompt", "boran", "--max-tokens", "4", "--json")[0] == 0


def test_perplexity_of_the_embedded_base_is_that_of_transformers(shared: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = load("weft-nano")
    article = (shared / "data/wikipedia-sample/wiki_demo.txt").read_text(encoding="utf-8").split("\n")[2][:4000]
    documents, writer = [Document(article, ""), Document(article[:100], "")], Writer.of(base, 512)
    nats = document_nats(base, documents, writer, Silent())
    rows = [row for document in documents for row in writer.rows(document)]
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    ours = math.exp(nats.sum() / sum(sum(row.learn) for row in rows))
    assert ours == pytest.approx(_perplexity(model, rows), rel=1e-6)


def test_an_adaptation_that_is_interrupted_ends_in_the_same_bytes(
    weft: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = ("--replay", "general.jsonl")
    assert weft(*_pretrain(tiny, *replay, "--out", "whole"))[0] == 0
    monkeypatch.setattr(steps, "SAVE_SECONDS", 0.0)
    save = steps.save

    def dies(run: Any, state: Any, *rest: Any) -> None:
        save(run, state, *rest)
        if state.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "save", dies)
    assert weft(*_pretrain(tiny, *replay, "--out", "cut"))[0] == 130
    assert not Path("cut/adapter").exists()
    monkeypatch.setattr(steps, "save", save)
    assert weft("train", "cut")[0] == 0
    names = (
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "metrics.jsonl",
        "scorecards/documents.test.json",
    )
    assert [name for name in names if Path("cut", name).read_bytes() != Path("whole", name).read_bytes()] == []
    # Other general text is another run.
    Path("general.jsonl").write_text(Path("general.jsonl").read_text() + '{"text": "more"}\n')
    code, _, err = weft("train", "cut")
    assert code == 2 and "replay_sha256" in err


def test_what_cannot_be_meant_is_refused_before_anything_is_written(weft: Any, tiny: str) -> None:
    Path("few.jsonl").write_text('{"text": "one"}\n{"texts": "two"}\n')
    Path("same.jsonl").write_text('{"text": "one and the same"}\n' * 12)
    for arguments, code, said in (
        (["docs"], 2, "documents in a folder are learned with: weft train FOLDER --method pretrain"),
        (
            ["docs", "--method", "pretrain", "--beta", "1"],
            2,
            "--beta: a setting of --method dpo; the method here is pret",
        ),
        (["docs", "--method", "pretrain", "--system", "x"], 2, "--system: a setting of --method sft"),
        (["gone", "--method", "pretrain"], 2, "gone: no such file. Name a .txt, .md, .rst or JSONL file of documents"),
        (["gone"], 2, "gone: no such file. Name a JSONL, JSON or CSV file of examples, or the folder of a run"),
        (["docs", "--method", "pretrain", "--replay-share", "0.2"], 2, "Name the general text with --replay"),
        (["docs", "--method", "pretrain", "--replay", "nothing.txt"], 2, "nothing.txt: no such file"),
        (["docs", "--method", "pretrain", "--document-end", "x"], 2, "--document-end 'x': no control token"),
        (
            ["few.jsonl", "--method", "pretrain"],
            1,
            "usable documents: 1 (1 row of 1 JSON file); at least 10 are needed",
        ),
        (["few.jsonl", "--method", "pretrain"], 1, "few.jsonl, line 2 has no 'text'; it has 'texts'"),
        (["same.jsonl", "--method", "pretrain"], 1, "its 12 documents are nearly all the same text"),
        (
            ["docs", "--method", "pretrain", "--replay", "docs"],
            1,
            "40 of its documents are left out: DATA holds them too",
        ),
    ):
        found, out, err = weft("train", *arguments, "--base", tiny)
        assert (found, out) == (code, "") and said in err, err
    code, _, err = weft("run", "general.jsonl", "--method", "pretrain", "--base", tiny)
    assert code == 2
    assert not Path("runs").exists()


def test_help_lists_the_flags_of_pretraining(weft: Any) -> None:
    code, out, _ = weft("train", "--help")
    assert code == 0
    for flag in ("--method [sft|dpo|pretrain]", "--replay TEXT", "--replay-share FLOAT", "--document-end TEXT"):
        assert flag in out
    assert "--batch-size counts packs" in " ".join(out.split())
