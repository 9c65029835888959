"""Any causal model of transformers over a forest: flat tokens, positions by depth, and a mask that says who sees whom.

Slower than the parts of `attention.py`, for scores above the mask are computed and dropped; faster than padded rows
where beginnings are shared. Not every model takes positions and mask from outside (ALiBi, recurrences, windows of its
own), so each is tried once on random tokens, and takes padded rows where the answers differ. What becomes of the logits
is the affair of `logprobs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from weft.forest.attention import dense_mask
from weft.forest.build import Forest, plant
from weft.records import Tokens

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference of a log-probability over the forest from the one over padded rows, relative to the largest."""
ROUGH = 3e-2
"""The same for narrower formats; a mask that is not obeyed moves random tokens by whole units."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention_window", "attention_window_size")
"""Under which names configurations limit how far a token sees."""
_TRIED = "weft_takes_forests"


class Predicted(NamedTuple):
    """Logits, and which of them predict what."""

    logits: Tensor
    """(K, V), as the model gives them."""
    states: Tensor
    """(N,) the row of `logits` that predicts each learned token; several may share one."""
    targets: Tensor
    """(N,) the learned tokens, row after row."""


def predicted(model: nn.Module, rows: Sequence[Tokens]) -> Predicted:
    """The logits that predict the learned tokens of `rows`: over their forest where that is exact and cheaper."""
    if takes_forests(model):
        forest = plant(rows)
        if _pays(model, forest, rows):
            return over_forest(model, forest)
    return padded(model, rows)


def over_forest(model: nn.Module, forest: Forest) -> Predicted:
    """One pass over the flat tokens as a single row. Exact for models of which `takes_forests` is true."""
    device = next(model.parameters()).device
    keep, sources = np.unique(forest.sources, return_inverse=True)
    ids, positions, kept, states, targets = (
        torch.from_numpy(array).to(device) for array in (forest.ids, forest.positions, keep, sources, forest.targets)
    )
    mask = torch.from_numpy(dense_mask(forest)).to(device)[None, None]
    if _attention(model) == "eager":  # which adds it to the scores
        mask = torch.zeros(mask.shape, device=device).masked_fill_(~mask, torch.finfo(torch.float32).min)
    given = {"input_ids": ids[None], "position_ids": positions[None], "attention_mask": mask}
    return Predicted(model(**given, use_cache=False, logits_to_keep=kept).logits[0], states, targets)


def padded(model: nn.Module, rows: Sequence[Tokens]) -> Predicted:
    """Rows padded on the right, where a causal model cannot look, so no mask is needed."""
    device = next(model.parameters()).device
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    learn = torch.tensor([list(row.learn) + [False] * (width - len(row.ids)) for row in rows], device=device)
    columns = learn.any(0).nonzero().squeeze(-1) - 1  # the states that predict some learned token
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits  # (B, columns, V)
    chosen = learn[:, columns + 1]
    targets = ids[:, columns + 1][chosen]
    return Predicted(logits[chosen], torch.arange(len(targets), device=device), targets)


def takes_forests(model: nn.Module) -> bool:
    """Whether `model` gives over a forest what it gives over padded rows; tried once, at the first question."""
    known = getattr(model, _TRIED, None)
    if known is None:
        known = _answers_alike(model)
        setattr(model, _TRIED, known)
    return known


@torch.no_grad()
def _answers_alike(model: nn.Module) -> bool:
    learning = model.training
    model.eval()
    kind = next(model.parameters()).device.type
    try:
        with torch.autocast(kind, enabled=False):
            rows = _random_rows(_text(model).vocab_size)
            forest = plant(rows, min_saved=1, longest=5)
            found, expected = (_logprobs(part) for part in (over_forest(model, forest), padded(model, rows)))
    except Exception:  # a model that cannot take such a mask fails in its own way
        return False
    finally:
        model.train(learning)
    return bool((found - expected).abs().max() <= allowed_error(model, expected))


def allowed_error(model: nn.Module, expected: Tensor) -> float:
    """How far an answer of `model` by another way may be from the expected one."""
    return TOLERANCE.get(next(model.parameters()).dtype, ROUGH) * max(1.0, float(expected.abs().max()))


def _logprobs(part: Predicted) -> Tensor:
    return part.logits.double().log_softmax(-1)[part.states, part.targets]


@lru_cache
def _random_rows(vocabulary: int) -> tuple[Tokens, ...]:
    """Beginnings shared by all, by some and by none; the same at each call."""
    drawn = np.random.default_rng(0).integers(0, vocabulary, (7, 12)).tolist()
    stem, branch, *ends = drawn
    paths = [[*stem, *ends[0]], [*stem, *branch, *ends[1][:3]], [*stem, *branch, *ends[2]], [*stem, *branch], ends[3]]
    return tuple(Tokens(tuple(path), (False, *[True] * (len(path) - 1))) for path in paths)


def _pays(model: nn.Module, forest: Forest, rows: Sequence[Tokens]) -> bool:
    """Whether the forest costs fewer operations than the padded rows, and no window of the model cuts into it."""
    config = _text(model)
    flat, longest = len(forest.ids), max(len(row.ids) for row in rows)
    if any(window < flat for window in windows(model)):
        return False
    cells = len(rows) * longest
    if _attention(model) == "eager" and flat * flat > cells * longest:
        return False  # its scores are kept for the backward pass
    embedding = model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    by_token = 2 * (sum(parameter.numel() for parameter in model.parameters()) - embedding)
    by_pair = 4 * config.hidden_size * config.num_hidden_layers
    return by_token * flat + by_pair * flat * flat < by_token * cells + by_pair * cells * longest


def windows(model: nn.Module) -> list[int]:
    """How many tokens a token sees, by each limit that the model's configuration states."""
    config = _text(model)
    found = [getattr(config, name, None) for name in _WINDOWS]
    return [window for window in found if isinstance(window, int) and window > 0]


def _text(model: nn.Module) -> Any:
    return model.config.get_text_config()  # type: ignore[union-attr,operator]


def _attention(model: nn.Module) -> str | None:
    return getattr(model.config, "_attn_implementation", None)
