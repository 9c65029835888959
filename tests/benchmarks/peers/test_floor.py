"""The least arithmetic of a step agrees with counting on paper and with torch's own counter."""

from __future__ import annotations

import pytest

from benchmarks.peers import cell as cells
from benchmarks.peers import floor
from benchmarks.peers.cell import BATCHES, Cell, batch_of, examples

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 300,
}  # fmt: skip


def test_equal_beginnings_are_counted_once() -> None:
    rows = [((1, 2, 3, 4), 2), ((1, 2, 5, 6), 2)]
    assert floor.count(rows, shared=True) == floor.Counts(states=4, pairs=1 + 2 + 3 + 3, sources=3, source_pairs=8)
    assert floor.count(rows, shared=False) == floor.Counts(states=6, pairs=12, sources=4, source_pairs=10)


def test_the_step_of_the_performance_note_is_found_again() -> None:
    cell = Cell("S", "fp32", 256, "qv", 16)
    made = examples(cell)
    for shared, expected in ((True, 49e9), (False, 121e9)):
        each = [floor.flop(cell, batch_of(made, cell, step), shared=shared) for step in range(BATCHES)]
        assert sum(each) / BATCHES == pytest.approx(expected, rel=0.08)


def test_linear_layers_and_head_are_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setitem(cells.SHAPES, "tiny", TINY)
    length = 20
    model = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=True, attn_implementation="eager"))
    ids = torch.randint(0, 300, (1, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    dense, causal = length**2, length * (length + 1) // 2
    attention = 3 * 4 * TINY["hidden_size"] * TINY["num_hidden_layers"]
    example = cells.Example(prompt=(5,), answer=tuple(range(length)))
    ours = floor.flop(Cell("tiny", "fp32", 0, "full", 1), [example], shared=False)
    assert ours - attention * causal == counter.get_total_flops() - attention * dense


def test_a_low_rank_adapter_needs_less_than_full_training() -> None:
    made = examples(Cell("S", "fp32", 64, "qv", 4))
    by_adapt = [floor.flop(Cell("S", "fp32", 64, adapt, 4), made[:4], shared=True) for adapt in cells.TARGETS]
    assert by_adapt == sorted(by_adapt)
