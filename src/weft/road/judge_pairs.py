"""What the sealed test pairs say about a tuning on preferences, from the base's and the tuned model's probabilities.

Two shares, each with its interval: of the pairs whose better reply gained more than the worse one (chance: one half),
and of those whose better reply is the likelier of the two, before and after (a paired test: McNemar's, exact). The
second moves less: where a worse reply was far likelier, as short ones are, gaining more does not yet overtake it. The
tuned model is loaded from the files that a user gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from weft.errors import DataError, TrainError
from weft.evaluate.compare import compare_shares, wilson
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Preference
from weft.road.tune import load_tuned, load_untuned
from weft.runs import Run
from weft.train import dpo
from weft.train.batches import MICRO_TOKENS, micro_batches
from weft.train.too_long import left_out
from weft.train.warn import warn

CARD = "scorecards/pairs.test.json"


def judge_pairs(run: Run, test: Sequence[Preference], progress: Progress) -> dict[str, Any]:
    """`{"pairs", "skipped_lines", "gained_more", "likelier": {"base", "tuned"}, "difference"}`; measured once, then
    read back. `skipped_lines`: of pairs beyond the context, which are said too.
    """
    if run.has(CARD):
        return run.read_json(CARD)
    progress.start("base and tuned on test", 2 * len(test), "pairs")
    untuned = load_untuned(run)
    pairs, skipped = dpo.render(untuned, test, untuned.context)
    if skipped:
        warn(run, progress.say, left_out("test", skipped, untuned.context))
    base = _margins(untuned, pairs, progress)
    del untuned
    tuned = _margins(load_tuned(run), pairs, progress)
    gained = tuned > base
    figures = {
        "pairs": len(base),
        "skipped_lines": skipped,
        "gained_more": _share(gained),
        "likelier": {"base": _share(base > 0), "tuned": _share(tuned > 0)},
        "difference": compare_shares(tuned > 0, base > 0, arms=("tuned", "base"), metric="likelier").to_json(),
    }
    for arm in ("base", "tuned"):  # counted before anybody sees the figures
        run.event("looked", arm=arm, split="test", rows=len(base))
    run.write_json(CARD, figures)
    progress.finish(f"the better reply gained more in {gained.mean():.1%} of the pairs")
    return figures


def require_pairs(base: Base, test: Sequence[Preference]) -> None:
    """Raises DataError where `judge_pairs` would have nothing to look at, which is better known before training."""
    if not test:
        raise DataError(
            "the sealed test part holds no pairs: near-duplicate prompts stay in one part. "
            "Add pairs with prompts that differ."
        )
    try:
        dpo.render(base, test, base.context)
    except TrainError as error:
        raise DataError(f"the sealed test part: {error}") from None


def _share(found: np.ndarray) -> dict[str, float]:
    return wilson(int(found.sum()), len(found)).to_json()


def _margins(model: Base, pairs: Sequence[dpo.Pair], progress: Progress) -> np.ndarray:
    """For each pair: how much likelier the better reply is, in nats."""
    found = np.zeros(len(pairs))
    for part in micro_batches(model.model, range(len(pairs)), MICRO_TOKENS, lambda i: pairs[i].rows):
        with torch.no_grad():
            given = dpo.reply_logprobs(model.model, [pairs[i] for i in part])
        found[part] = (given[:, 0] - given[:, 1]).numpy(force=True)
        progress.advance(len(part))
    return found
