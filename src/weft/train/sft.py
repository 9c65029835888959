"""Supervised fine-tuning on conversations: fetch, forward, backward, step, log, save, in that order, on one page.

Loss is the mean over the learned tokens of the whole optimizer step, whatever the micro-batches. The parameters of the
best validation are what is published, or of the last step. What every method does alike at a step is in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from weft.errors import UsageError
from weft.graders.shape import are_labels
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Conversation
from weft.runs import Run
from weft.settings import Resolved
from weft.tasks import Task
from weft.train import auto
from weft.train.batches import families
from weft.train.crew import hands, shares
from weft.train.ending import require_ending
from weft.train.fit import Fit
from weft.train.held_out import require_held_out
from weft.train.judge import Judge
from weft.train.likelihood import Told, add_gradient, look, step_measures
from weft.train.needs import keep, require_memory
from weft.train.rows import Rows, bpe_dropout
from weft.train.settle import settled
from weft.train.sft_config import SftConfig
from weft.train.sharded import frozen, together
from weft.train.steps import Steps, Trained
from weft.train.stop import Stop
from weft.train.too_long import tell_left_out
from weft.train.vocabulary import require_tokens, tokens_to_train


def settle(settings: Resolved[SftConfig], base: Base, train: Sequence[Conversation]) -> Resolved[SftConfig]:
    """The same settings with every `auto` resolved from the base and the training examples."""
    labels = are_labels([example.answer for example in train])
    if settings.config.bpe_dropout == "auto":
        share, why = bpe_dropout(base, labels)
        settings = settings.replace(why, bpe_dropout=share)
    epochs = auto.epochs_anew if settings.config.merges_left_out else auto.epochs
    dropout = partial(auto.dropout, labels=labels)
    return settled(settings, base, train, auto.learning_rate, dropout, epochs)


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
    require_held_out(validation, config, "examples", "questions")
    if task is not None:
        Judge.of(base, task, train, validation, config)
    rows = Rows(base, train, config).as_served
    held_out = Rows(base, validation, config).as_served
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
    require_held_out(validation, config, "examples", "questions")
    rows = Rows(base, train, config)
    looked_at = Rows(base, validation, config)
    served, held_out = rows.as_served, looked_at.as_served
    tell_left_out(run, progress.say, min(int(config.max_tokens), base.context), rows.skipped, looked_at.skipped)
    lengths = [len(row.ids) for row in served]
    first = rows.of(range(len(served)), epoch=0)
    tokens = tokens_to_train(base, config, [*served, *first])
    plan = keep(run, require_memory(base, [*first, *held_out], config.batch_size, config, tokens), progress)
    steps = Steps(run, base, config, len(served), progress, stop, config.stop_on, tokens)
    fit = Fit(run, base.model, plan, steps.parameters, config.recompute, progress.say)
    count = hands(base.model, config.batch_size)

    def learn(part: Sequence[int], epoch: int, learned: int) -> Told:
        mine = rows.of(part, epoch)
        return fit(lambda most: add_gradient(base, mine, learned, most, config, config.neftune_alpha))

    with (
        steps.listening(),
        frozen(base.model, config.precision),
        together(learn, steps.parameters, count, base.model) as crew,
    ):
        for batch in steps.batches(lengths, families(served, config.batch_size)):
            learned = sum(sum(served[i].learn) for i in batch)
            parts = shares([served[i] for i in batch], crew.count)
            told = crew([([batch[i] for i in part], steps.epoch, learned) for part in parts])
            steps.update(tokens=sum(lengths[i] for i in batch), **step_measures(told, learned))

            if steps.look_due:
                scores = judge.scores(base, config) if judge else {}
                steps.look(**fit(lambda most: look(base, held_out, most, config)), **scores)
            steps.save_if_due()

    return steps.publish(rows.skipped, looked_at.skipped)
