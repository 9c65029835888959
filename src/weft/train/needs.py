"""What training will need, said before it starts: memory from the model's shape and the longest rows.

An estimate from above: what a step keeps for its backward pass, with nothing recomputed. Measured against the real
peak in tests/train/test_needs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.models import lora, memory
from weft.models.load import Base
from weft.records import Tokens
from weft.train.batches import MICRO_TOKENS
from weft.train.tuning_config import TuningConfig

FLOAT = 4
HIDDEN_KEPT, INNER_KEPT = 20, 6
"""Numbers kept per token and layer, in widths of the hidden state and of the MLP's inner state, adapters included."""


def training_bytes(config: Any, trained: int, tokens: int, longest: int, learned: int) -> int:
    """Peak bytes of a training step beyond the loaded weights.

    `config`: the transformers configuration; `trained`: parameters that learn; `tokens`: padded tokens of the largest
    forward pass, whose rows are `longest` tokens long and learn at most `learned` each.
    """
    text = config.get_text_config()
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    per_token = HIDDEN_KEPT * text.hidden_size + INNER_KEPT * inner
    scores = 2 * text.num_attention_heads * longest  # scores and weights of the layer being computed, all kept
    states = tokens * text.num_hidden_layers * (per_token + scores) * FLOAT
    logits = 4 * (tokens // max(longest, 1)) * learned * text.vocab_size * FLOAT
    # Gradient, two moments of AdamW, the best so far and the start, for what is trained.
    optimizer = 5 * trained * FLOAT
    return states + logits + optimizer


def require_memory(base: Base, rows: Sequence[Tokens], rows_per_step: int, config: TuningConfig) -> None:
    """Raise ResourceError where a step on the longest of `rows` would not fit; UsageError where LoRA does not.

    The base is wrapped and unwrapped again: only the adapter itself knows how many numbers it trains.
    """
    trained = base.parameters
    if not config.full:
        trained = sum(parameter.numel() for parameter in lora.wrap(base.model, config.lora, config.seed))
        lora.unwrap(base.model)
    longest = max(len(row.ids) for row in rows)
    tokens = max(longest, min(MICRO_TOKENS, rows_per_step * longest))
    needed = training_bytes(base.model.config, trained, tokens, longest, max(sum(row.learn) for row in rows))
    memory.require(
        needed, f"training {trained:,} parameters of {base.name}", "Lower --max-tokens or --batch-size, choose"
    )
