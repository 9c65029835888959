"""weft as a contestant computes what transformers computes on padded rows; everybody stands on the same folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import cell as cells
from benchmarks.peers.cell import Cell, batch_of, examples
from benchmarks.peers.worker import Finished, Gate

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from benchmarks.peers import grounds

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cells.SHAPES, "tiny", TINY)
        made = tmp_path_factory.mktemp("ground")
        grounds.answer({"do": "folder", "model": "tiny", "folder": str(made / "base")})
        grounds.answer({"do": "adapter", "folder": str(made / "base"), "adapter": str(made / "qv"), "adapt": "qv"})
        yield made


def steps(cell: Cell, folder: Path, gradient: Path, count: int = 2, alone: bool = False) -> list[dict[str, Any]]:
    from benchmarks.peers.ours import Ours

    commands, answers = iter([*[{"do": "step"}] * count, None]), []
    ours = Ours(cell, examples(cell), folder / "base", folder / cell.adapt, gradient, alone=alone)
    with pytest.raises(Finished):
        ours.run(Gate(lambda: next(commands), answers.append))
    return answers


def test_the_examples_share_their_prefix_alone_and_are_the_same_everywhere() -> None:
    cell = Cell("S", "fp32", 64, "qv", 4, "dpo")
    made = examples(cell)
    assert made == examples(cell) and len(made) == 4 * cells.BATCHES
    assert len({example.prompt[:64] for example in made}) == 1 and len({example.prompt[:65] for example in made}) > 1
    assert all(20 <= len(one.prompt) - 64 <= 120 and 10 <= len(one.answer) <= 60 for one in made)
    assert made[0].rows[1] == (made[0].prompt + made[0].rejected, len(made[0].prompt))
    assert batch_of(made, cell, 5) == made[4:8]
    assert batch_of(examples(cell, 3), cell, 2) == batch_of(made, cell, 5)


def test_the_tokenizer_gives_back_every_word_that_an_example_is_made_of() -> None:
    from benchmarks.peers import grounds

    tokenizer = grounds.tokenizer(400)
    ids = [*range(259, 400), cells.END]
    text = "".join(tokenizer.convert_ids_to_tokens(ids)).replace(cells.SPACE, " ")
    assert tokenizer(text)["input_ids"] == ids


def test_with_two_threads_one_process_learns_what_two_processes_learn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from benchmarks.peers import ours
    from weft.train.sharded import together

    cell, dealt, before = Cell("tiny", "fp32", 8, "qv", 4, threads=2), [], torch.get_num_threads()
    monkeypatch.setattr(ours, "together", lambda *to: dealt.append(to[2]) or together(*to))
    torch.set_num_threads(2)
    try:
        found = [[step["loss"] for step in steps(cell, folder, tmp_path / "g", 3, alone)] for alone in (False, True)]
    finally:
        torch.set_num_threads(before)
    assert dealt == [2, 1]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_our_first_step_is_that_of_transformers_on_padded_rows(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from benchmarks.peers import grounds

    cell = Cell("tiny", "fp32", 8, "full", 3)
    ours = steps(cell, folder, tmp_path / "ours")
    rows = [row for example in batch_of(examples(cell), cell, 0) for row in example.rows]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([list(row) + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.full_like(ids, -100)
    for place, (row, begin) in enumerate(rows):
        labels[place, begin : len(row)] = torch.tensor(row[begin:])
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    loss = model(input_ids=ids, labels=labels).loss  # padding on the right is never looked at
    loss.backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    save_file(theirs, tmp_path / "theirs")
    assert ours[0]["loss"] == pytest.approx(loss.item(), rel=1e-6) and ours[0]["examples"] == 3
    found = grounds.compare(tmp_path / "theirs", {"weft": tmp_path / "ours"})["weft"]
    assert found["tensors"] == len(theirs) and found["relative"] < 1e-5 and not found["missing"]
    assert ours[1]["loss"] != ours[0]["loss"]


def test_preferences_start_at_the_reference(folder: Path, tmp_path: Path) -> None:
    answers = steps(Cell("tiny", "fp32", 8, "qv", 3, "dpo"), folder, tmp_path / "gradient")
    assert answers[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and answers[1]["loss"] != answers[0]["loss"]
    assert answers[0]["examples"] == 3


def test_bf16_leaves_the_adapter_float32(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    exact = steps(Cell("tiny", "fp32", 8, "qv", 3), folder, tmp_path / "exact", 1)[0]["loss"]
    assert steps(Cell("tiny", "bf16", 8, "qv", 3), folder, tmp_path / "rounded", 1)[0]["loss"] != exact
    names = load_file(tmp_path / "rounded")
    assert len(names) == 8 and all(tensor.abs().max() > 0 for tensor in names.values())


def test_peft_names_and_ours_mean_the_same_tensor() -> None:
    from benchmarks.peers import grounds

    ours = "model.layers.0.self_attn.q_proj.lora_A"
    assert grounds.canonical(f"base_model.model.{ours}.default.weight") == ours == grounds.canonical(ours)
    with pytest.raises(ValueError, match="command 'dance' is unknown"):
        grounds.answer({"do": "dance"})


def test_the_peak_is_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from benchmarks.peers import grounds

    monkeypatch.setattr(grounds, "PEAK_SIZES", (256,))
    monkeypatch.setattr(grounds, "PEAK_SECONDS", 0.05)
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, threads = matmul.fp32_precision, torch.get_num_threads()
    assert grounds.answer({"do": "peak", "precision": "fp32", "threads": threads})["flops"] > 1e8
    assert grounds.answer({"do": "peak", "precision": "bf16", "threads": threads})["flops"] > 1e7
    matmul.fp32_precision = before
