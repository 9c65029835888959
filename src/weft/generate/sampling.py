"""From the logits of the next token to one token: greedy, or temperature and nucleus with a seed of one's own."""

from __future__ import annotations

from torch import Generator, Tensor, multinomial

from weft.generate.sampling_config import Sampling


def pick(logits: Tensor, sampling: Sampling, generators: list[Generator]) -> Tensor:
    """The next token of each row: logits (B, V) → ids (B,). `generators`: one per row, unused at temperature 0."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, indices = probabilities.sort(-1, descending=True)
        # A token stays while the mass before it is still short of top_p, so the first always stays.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
        probabilities = probabilities.zero_().scatter_(-1, indices, ordered)
    rows = [multinomial(row, 1, generator=generator) for row, generator in zip(probabilities, generators, strict=True)]
    return logits.new_tensor([int(row) for row in rows]).long()
