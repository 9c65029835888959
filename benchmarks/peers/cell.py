"""One cell of the benchmark: a model shape and a workload. Same cell, same tokens, in every process; no library needed.

The workload: a prefix shared by all examples (a system prompt), a user turn of 20 to 120 tokens, an answer of 10 to 60
that ends in the end token; loss on the answer. With `dpo` each example has a second, rejected answer.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "XS": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 176, "vocab_size": 1024,
    },
    "S": {
        "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 704, "vocab_size": 8192,
    },
    "M": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152,
    },
}  # fmt: skip
"""Llama shapes with tied heads: a tiny one for tests of many steps, about 7 million parameters, and those of a common
135-million model."""
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS: dict[str, tuple[str, ...]] = {"qv": ("q_proj", "v_proj"), "all-linear": ALL_LINEAR, "full": ()}
RANK, ALPHA = 16, 32
BATCHES = 4
"""Distinct batches; step n takes batch n modulo this."""
CONTEXT = 8192
PAD, START, END, FIRST_BYTE, FIRST_WORD = 0, 1, 2, 3, 259
"""Token ids: padding, start and end of a text, the 256 bytes, then words. Examples are made of words."""
SPACE = "\u0120"
"""How a byte-level tokenizer writes a space."""
LEARNING_RATE, CLIP, BETA = 2e-4, 1.0, 0.1
"""Of every contestant: AdamW at a constant rate, gradient norm clipped; BETA is DPO's."""


@dataclass(frozen=True)
class Cell:
    """What one row of the table measures."""

    model: str
    precision: str
    """`fp32` or `bf16`."""
    prefix: int
    """Tokens that all examples begin with."""
    adapt: str
    """A key of TARGETS."""
    batch: int
    """Examples (with `dpo` pairs) per step."""
    method: str = "sft"
    threads: int = 1
    stretch: int = 1
    """Factor on the lengths of user turn and answer; other than 1 only on a curve."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        stretched = f", turns times {self.stretch}" if self.stretch != 1 else ""
        return (
            f"{self.model} {self.precision}, prefix {self.prefix}, {self.adapt}, batch {self.batch}, {self.method}"
            f"{stretched}"
        )


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its answer; `rejected` is empty but for `dpo`."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    rejected: tuple[int, ...] = ()

    @property
    def rows(self) -> list[tuple[tuple[int, ...], int]]:
        """The sequences that a model sees, each with the place where its loss begins."""
        answers = (self.answer, self.rejected) if self.rejected else (self.answer,)
        return [(self.prompt + answer, len(self.prompt)) for answer in answers]


def examples(cell: Cell, first: int = 0, seed: int = 1) -> list[Example]:
    """BATCHES batches of examples, in order from batch `first` on, and round."""
    draw = random.Random(seed)
    vocabulary = SHAPES[cell.model]["vocab_size"]

    def words(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(FIRST_WORD, vocabulary) for _ in range(count))

    def turn(low: int, high: int) -> tuple[int, ...]:
        return words(cell.stretch * draw.randint(low, high))

    prefix = words(cell.prefix)
    made = []
    for _ in range(cell.batch * BATCHES):
        prompt, answer = prefix + turn(20, 120), (*turn(10, 60)[:-1], END)
        made.append(Example(prompt, answer, (*turn(10, 60)[:-1], END) if cell.method == "dpo" else ()))
    return made[first * cell.batch :] + made[: first * cell.batch]


def batch_of(made: list[Example], cell: Cell, step: int) -> list[Example]:
    """The examples of step 0, 1, 2 …"""
    start = step % BATCHES * cell.batch
    return made[start : start + cell.batch]
