"""What training will need, said before it starts: memory from the model's shape and the longest rows.

An estimate from above: what a step keeps for its backward pass, with nothing recomputed. Measured against the real
peak in tests/train/test_needs.py.
"""

from __future__ import annotations

from typing import Any

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
