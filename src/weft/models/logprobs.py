"""The one forward pass that learning stands on: rendered conversations in, log-probabilities of the learned tokens out.

Rows are padded on the right, where a causal model cannot look, so no mask is needed; logits are computed only in the
columns that some row learns. What happens under this function may become faster without its callers noticing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weft.records import Tokens


def learned_logprobs(model: nn.Module, rows: Sequence[Tokens]) -> Tensor:
    """Log-probability of every learned token, row after row: (N,) where N = sum of `learn` over the rows.

    The first token of a row cannot be learned (nothing precedes it) and must not be marked.
    """
    device = next(model.parameters()).device
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    learn = torch.tensor([list(row.learn) + [False] * (width - len(row.ids)) for row in rows], device=device)
    columns = learn.any(0).nonzero().squeeze(-1) - 1  # the states that predict some learned token
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits  # (B, columns, V)
    chosen = learn[:, columns + 1]
    return logits[chosen].float().log_softmax(-1).gather(-1, ids[:, columns + 1][chosen][:, None]).squeeze(-1)
