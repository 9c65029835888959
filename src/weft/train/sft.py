"""Supervised fine-tuning on conversations: fetch, forward, backward, step, log, save, in that order, on one page.

Loss is the mean over the learned tokens of the whole optimizer step, whatever the micro-batches. The parameters of the
best validation are what is published. What every method does alike at a step is in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.errors import TrainError
from weft.models.load import Base
from weft.models.precision import frozen_as
from weft.progress import Progress
from weft.records import Conversation, Tokens
from weft.runs import Run
from weft.settings import Resolved
from weft.train import auto
from weft.train.crew import Crew, hands, shares
from weft.train.ending import require_ending
from weft.train.likelihood import add_gradient, mean_loss
from weft.train.needs import require_memory
from weft.train.settle import settled
from weft.train.sft_config import SftConfig
from weft.train.steps import Steps, Trained


def settle(settings: Resolved[SftConfig], base: Base, examples: int) -> Resolved[SftConfig]:
    """The same settings with every `auto` resolved from the base and the number of training examples."""
    return settled(settings, base, examples, auto.learning_rate)


def rehearse(base: Base, train: Sequence[Conversation], validation: Sequence[Conversation], config: SftConfig) -> None:
    """Raise now what `train` would refuse after everything before it was paid for. `config` must be settled."""
    rows, _ = _render(base, train, config)
    held_out, _ = _render(base, validation, config)
    require_ending(base, config)
    require_memory(base, [*rows, *held_out], config.batch_size, config)


def train(
    run: Run,
    base: Base,
    train: Sequence[Conversation],
    validation: Sequence[Conversation],
    config: SftConfig,
    progress: Progress,
) -> Trained:
    """Fine-tune `base` in place, publish `adapter/` (or `model/` with `full`) in the run's folder, return the record.

    `config` must be settled. Raises TrainError on non-finite numbers, nothing to learn, or nothing learned.
    """
    rows, skipped = _render(base, train, config)
    held_out, _ = _render(base, validation, config)
    lengths = [len(row.ids) for row in rows]
    steps = Steps(run, base, config, len(rows), progress)
    count = hands(base.model, config.batch_size, draws=bool(config.lora.dropout or config.neftune_alpha))

    def learn(part: Sequence[int], learned: int) -> float:
        return add_gradient(base, [rows[i] for i in part], learned, config, config.neftune_alpha)

    with frozen_as(base.model, config.precision), Crew(learn, steps.parameters, count) as crew:
        for batch in steps.batches(lengths):
            learned = sum(sum(rows[i].learn) for i in batch)
            parts = shares([rows[i] for i in batch], crew.count)
            loss = sum(crew([([batch[i] for i in part], learned) for part in parts]))
            steps.update(loss, tokens=sum(lengths[i] for i in batch))

            if steps.look_due:
                steps.look(mean_loss(base, held_out, config))
            steps.save_if_due()

    return steps.publish(skipped)


def _render(base: Base, examples: Sequence[Conversation], config: SftConfig) -> tuple[list[Tokens], list[int]]:
    """Examples as tokens, and the lines of those that are too long."""
    if not examples:
        raise TrainError(
            "there are no validation examples, so nothing tells when to stop: near-duplicates stay in one part, and "
            "these questions are all alike. Add examples that differ."
        )
    rendered = [base.chat.example(example.messages, learn=config.learn) for example in examples]
    most = min(int(config.max_tokens), base.context)
    rows = [row for row in rendered if len(row.ids) <= most]
    if not sum(sum(row.learn) for row in rows):
        raise TrainError(
            f"none of the {len(examples)} examples leaves a token to learn within {most} tokens. "
            "Raise --max-tokens, use a base with a longer context, or shorten the examples."
        )
    return rows, [example.line for example, row in zip(examples, rendered, strict=True) if len(row.ids) > most]
