"""Whether a base can end its replies at all: was the row of its end token ever learned?

Softmax looks at differences between rows only. In pretraining a token that never occurs gets the same push as all that
never occur, so their rows run into one another: tinystories-260k has 211 such rows of 512, `</s>` among them. Tokens
whose rows coincide are always equally likely: such an end token never has more than its share, whatever is learned
below the output head, and LoRA learns below it.
Not seen: a row that was never learned but is unlike all others (random from the start), which LoRA can raise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAME = 0.05
"""Distance of rows that count as one, over the median distance of a row from the mean row. Measured distance to the
nearest row: weft-nano's control tokens 1.22 to 1.37, its 764 unlearned ones at most 0.02; tinystories-260k: 0.0."""
_ROWS = 8192


def never_learned(model: nn.Module, token: int) -> str:
    """How the output head's row of `token` shows that pretraining never learned it, in words; empty where it does not.

    Three signs: other tokens have the same row, the row is nothing, or it is the mean of all rows (what enlarging a
    vocabulary leaves). A head without rows says nothing.
    """
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return ""
    weight = weight.detach()
    row, mean = weight[token].float(), weight.mean(0, dtype=torch.float32)
    near = SAME * float(_distances(weight, mean).median())
    twins = int((_distances(weight, row) <= near).sum()) - 1
    if float(row.norm()) <= SAME * float(_distances(weight, torch.zeros_like(row)).median()):
        return "its output weights are all but zero"
    if float((row - mean).norm()) <= near:
        return "its output weights are the mean of all tokens', as where a vocabulary was enlarged"
    if twins:
        others = f"those of {twins:,} other tokens" if twins > 1 else "those of another token"
        return f"its output weights are {others}, as of tokens that pretraining never saw"
    return ""


def _distances(weight: Tensor, point: Tensor) -> Tensor:
    """Of each row (V, W) from a point (W,): (V,) float32. In parts, since no tensor may be larger than the table."""
    return torch.cat([(part.float() - point).norm(dim=1) for part in weight.split(_ROWS)])
