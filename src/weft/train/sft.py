"""Supervised fine-tuning on conversations: fetch, forward, backward, step, log, save, in that order, on one page.

Loss is the mean over the learned tokens of the whole optimizer step, whatever the micro-batches. The parameters of the
best validation are what is published. What every method does alike at a step is in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.errors import TrainError, UsageError
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Conversation, Tokens
from weft.runs import Run
from weft.settings import Resolved
from weft.tasks import Task
from weft.train import auto
from weft.train.crew import hands, shares
from weft.train.ending import require_ending
from weft.train.fit import Fit
from weft.train.judge import Judge
from weft.train.likelihood import Told, add_gradient, look, step_measures
from weft.train.needs import keep, require_memory
from weft.train.settle import settled
from weft.train.sft_config import SftConfig
from weft.train.sharded import frozen, together
from weft.train.steps import Steps, Trained
from weft.train.stop import Stop
from weft.train.vocabulary import require_tokens, tokens_to_train


def settle(settings: Resolved[SftConfig], base: Base, examples: int) -> Resolved[SftConfig]:
    """The same settings with every `auto` resolved from the base and the number of training examples."""
    return settled(settings, base, examples, auto.learning_rate, auto.dropout)


def rehearse(
    base: Base,
    train: Sequence[Conversation],
    validation: Sequence[Conversation],
    config: SftConfig,
    task: Task | None = None,
) -> None:
    """Raise now what `train` would refuse after everything before it was paid for. `config` must be settled.

    `task`: what the examples are, where that is known.
    """
    if task is not None:
        Judge.of(base, task, train, validation, config)
    rows, _ = _render(base, train, config)
    held_out, _ = _render(base, validation, config)
    require_ending(base, config)
    require_tokens(base, config)
    require_memory(base, [*rows, *held_out], config.batch_size, config, tokens_to_train(base, config, rows))


def train(
    run: Run,
    base: Base,
    train: Sequence[Conversation],
    validation: Sequence[Conversation],
    config: SftConfig,
    progress: Progress,
    stop: Stop | None = None,
    judge: Judge | None = None,
) -> Trained:
    """Fine-tune `base` in place, publish `adapter/` (or `model/` with `full`) in the run's folder, return the record.

    `config` must be settled; `judge` is wanted where it stops on a score. Raises TrainError on non-finite numbers,
    nothing to learn, or nothing learned; Stopped where `stop` or SIGTERM says so.
    """
    if config.stop_on != "loss" and judge is None:
        raise UsageError(f"--stop-on {config.stop_on}: nothing here grades answers. Leave it out.")
    rows, skipped = _render(base, train, config)
    held_out, _ = _render(base, validation, config)
    lengths = [len(row.ids) for row in rows]
    tokens = tokens_to_train(base, config, rows)
    plan = keep(run, require_memory(base, [*rows, *held_out], config.batch_size, config, tokens), progress)
    steps = Steps(run, base, config, len(rows), progress, stop, config.stop_on, tokens)
    fit = Fit(run, base.model, plan, steps.parameters, config.recompute, progress.say)
    count = hands(base.model, config.batch_size)

    def learn(part: Sequence[int], learned: int) -> Told:
        mine = [rows[i] for i in part]
        return fit(lambda most: add_gradient(base, mine, learned, most, config, config.neftune_alpha))

    with (
        steps.listening(),
        frozen(base.model, config.precision),
        together(learn, steps.parameters, count, base.model) as crew,
    ):
        for batch in steps.batches(lengths):
            learned = sum(sum(rows[i].learn) for i in batch)
            parts = shares([rows[i] for i in batch], crew.count)
            told = crew([([batch[i] for i in part], learned) for part in parts])
            steps.update(tokens=sum(lengths[i] for i in batch), **step_measures(told, learned))

            if steps.look_due:
                scores = judge.scores(base, config) if judge else {}
                steps.look(**fit(lambda most: look(base, held_out, most, config)), **scores)
            steps.save_if_due()

    return steps.publish(skipped)


def _render(base: Base, examples: Sequence[Conversation], config: SftConfig) -> tuple[list[Tokens], list[int]]:
    """Examples as tokens, and the lines of those that are too long."""
    if not examples:
        raise TrainError(
            "there are no validation examples, so nothing tells when to stop: near-duplicates stay in one part, and "
            "these questions are all alike. Add examples that differ."
        )
    rendered = [base.chat.example(example.messages, learn=example.learned(config.learn)) for example in examples]
    most = min(int(config.max_tokens), base.context)
    rows = [row for row in rendered if len(row.ids) <= most]
    if not sum(sum(row.learn) for row in rows):
        raise TrainError(
            f"none of the {len(examples)} examples leaves a token to learn within {most} tokens. "
            "Raise --max-tokens, use a base with a longer context, or shorten the examples."
        )
    return rows, [example.line for example, row in zip(examples, rendered, strict=True) if len(row.ids) > most]
