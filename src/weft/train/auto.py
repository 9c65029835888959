"""What `auto` means for training: rules from the size of the model and of the data, each said in the run.

Sources: LoRA needs about ten times the rate of full fine-tuning, and good rates fall with model size (Schulman et al.,
"LoRA Without Regret", 2025; Kaplan et al. 2020, appendix D.6). Preferences are learned at a tenth of the rate of
answers (5e-7 after 5e-6 for 8 billion parameters: Lambert et al. 2024, "Tülu 3", arXiv:2411.15124). What was measured
with the embedded base is in docs/training.md; larger bases were not tried here.
"""

from __future__ import annotations

import math

FULL_RATE_AT_8B = 3e-5
"""A peak rate for full fine-tuning of an 8-billion-parameter model with AdamW."""
SMALL = 50_000_000
"""Parameters of a base below which words learn beside an adapter, and a share of its inputs is dropped."""
MOST_FULL, MOST_LORA = 2e-3, 4e-3
"""Highest rates. On the intents example LoRA at 1e-2 ended at 21 % right, at 3e-3 at 80 %."""


def learning_rate(parameters: int, full: bool) -> tuple[float, str]:
    """The peak rate, and why. Full: 3e-5 at 8 B parameters, rising with the inverse square root of the size."""
    rate = FULL_RATE_AT_8B * math.sqrt(8e9 / parameters)
    if full:
        rate = _rounded(min(rate, MOST_FULL))
        return rate, f"auto: full fine-tuning of {parameters:,} parameters"
    rate = _rounded(min(10 * rate, MOST_LORA))
    return rate, f"auto: LoRA on {parameters:,} parameters, ten times the full rate"


def preference_rate(parameters: int, full: bool) -> tuple[float, str]:
    """The peak rate for learning from pairs, and why: a tenth of that for learning answers."""
    rate, why = learning_rate(parameters, full)
    return _rounded(rate / 10), f"{why}; a tenth of it for preferences"


def dropout(parameters: int, labels: bool) -> tuple[float, str]:
    """The share of an adapter's inputs that is dropped, and why. `labels`: whether the answers are labels.

    A small base learns the examples by heart before it has learned from them: decision 12 has what was measured with
    the embedded one. Larger bases were not tried, and have none, as with the peers.
    """
    if not labels:
        return 0.0, "dropout auto: the answers are no labels"
    if parameters < SMALL:
        return 0.1, f"dropout auto: labels, on {parameters:,} parameters, under {SMALL:,}"
    return 0.0, f"dropout auto: {parameters:,} parameters, {SMALL:,} or more"


def no_dropout(_parameters: int) -> tuple[float, str]:
    """For methods with which nothing was measured."""
    return 0.0, "dropout auto: none with this method"


def bpe_dropout(parameters: int, labels: bool) -> tuple[float, str]:
    """The share of merges to leave out in questions, and why. `labels`: whether the answers are labels.

    Measured with the embedded base (decision 13): labels gain, answers that repeat the question's words lose.
    """
    if not labels:
        return 0.0, "auto: the answers are no labels"
    if parameters >= SMALL:
        return 0.0, f"auto: {parameters:,} parameters, {SMALL:,} or more"
    return 0.1, f"auto: labels, on {parameters:,} parameters, under {SMALL:,}"


def epochs(examples: int) -> tuple[int, str]:
    """At most how often each example is seen, and why; early stopping ends it sooner where it stops helping.

    banking77, 7,065 examples: 83.6 % of validation right after four epochs, 85.3 % after eight.
    """
    count = max(4, min(10, round(60_000 / max(examples, 1))))
    return count, f"auto: {examples:,} training examples, at most 10, at least 4"


def epochs_anew(examples: int) -> tuple[int, str]:
    """The same where each epoch has the questions' words in other pieces: there is more to learn from them."""
    count = max(4, min(12, round(85_000 / max(examples, 1))))
    return count, f"auto: {examples:,} training examples, in other pieces each time, at most 12, at least 4"


def validate_every(steps_per_epoch: int) -> tuple[int, str]:
    """Steps between looks at the validation loss, and why.

    Patience counts looks: with four looks an epoch, banking77 stopped in its third epoch while the rate was high.
    """
    steps = min(steps_per_epoch, 500)
    return steps, f"auto: an epoch is {steps_per_epoch} steps, at most 500 between looks"


def _rounded(rate: float) -> float:
    """Two significant digits: what a person would write."""
    return float(f"{rate:.1e}")
