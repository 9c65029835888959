"""Domain adaptation on documents: fetch, forward, backward, step, log, save, in that order, on one page.

Loss is the mean over all tokens of the documents in an optimizer step (how they become rows and packs: `documents.py`;
what is mixed in against forgetting: `mix.py`). What every method does alike at a step is in `steps.py`. A model from
nothing is `from_scratch.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass

from weft.models.load import Base
from weft.progress import Progress
from weft.records import Tokens
from weft.runs import Run
from weft.settings import Resolved
from weft.train import auto
from weft.train.crew import hands, shares
from weft.train.fit import Fit
from weft.train.held_out import require_held_out
from weft.train.likelihood import Told, add_gradient, look, step_measures
from weft.train.mix import Mix
from weft.train.needs import Plan, keep, require_memory
from weft.train.pretrain_config import PretrainConfig
from weft.train.settle import settled
from weft.train.sharded import frozen, together
from weft.train.steps import Steps, Trained
from weft.train.stop import Stop
from weft.train.vocabulary import require_tokens, tokens_to_train

LONGEST = 2048
"""Most tokens of a row where nothing is said and the context is longer: memory grows with it."""
EPOCHS = 4
"""Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", arXiv:2305.16264."""


@dataclass(frozen=True)
class HeldOut:
    """Rows to choose by: those of the documents decide, those of the general text are looked at."""

    rows: tuple[Tokens, ...]
    replay: tuple[Tokens, ...] = ()


def settle(settings: Resolved[PretrainConfig], base: Base, train: Sized) -> Resolved[PretrainConfig]:
    """The same settings with every `auto` resolved from the base and the number of packs in an epoch, of `train`."""
    if settings.config.max_tokens == "auto":
        why = f"auto: the context of {base.name}, at most {LONGEST:,}"
        settings = settings.replace(why, max_tokens=longest_row(settings.config, base))
    if settings.config.epochs == "auto":
        why = "auto: text repeated up to 4 times teaches nearly what new text does (Muennighoff et al. 2023)"
        settings = settings.replace(why, epochs=EPOCHS)
    return settled(settings, base, train, auto.learning_rate)


def longest_row(config: PretrainConfig, base: Base) -> int:
    """Tokens of the longest row: as told, never beyond the context."""
    return min(LONGEST if config.max_tokens == "auto" else config.max_tokens, base.context)


def rehearse(base: Base, train: Mix, validation: HeldOut, config: PretrainConfig) -> None:
    """Raise now what `train` would refuse after everything before it was paid for. `config` must be settled."""
    require_held_out(validation.rows, config, "documents", "documents")
    require_tokens(base, config)
    _planned(base, train, validation, config)


def train(
    run: Run,
    base: Base,
    train: Mix,
    validation: HeldOut,
    config: PretrainConfig,
    progress: Progress,
    stop: Stop | None = None,
) -> Trained:
    """Adapt `base` in place, publish `adapter/` (or `model/` with `full`) in the run's folder, return the record.

    `config` must be settled. Raises TrainError on non-finite numbers or nothing learned; Stopped where `stop` or
    SIGTERM says so.
    """
    require_held_out(validation.rows, config, "documents", "documents")
    plan = keep(run, _planned(base, train, validation, config), progress)
    steps = Steps(run, base, config, len(train), progress, stop, tokens=_tokens(base, train, config))
    fit = Fit(run, base.model, plan, steps.parameters, config.recompute, progress.say)
    per_epoch = math.ceil(len(train) / config.batch_size)

    def learn(rows: Sequence[Tokens], learned: int) -> Told:
        return fit(lambda most: add_gradient(base, rows, learned, most, config))

    count = hands(base.model, config.batch_size)
    with (
        steps.listening(),
        frozen(base.model, config.precision),
        together(learn, steps.parameters, count, base.model) as crew,
    ):
        for batch in steps.batches(train.lengths()):
            epoch = steps.state.step // per_epoch
            rows = [row for place in batch for row in train.pack(place, epoch)]
            learned = sum(sum(row.learn) for row in rows)
            told = crew([([rows[i] for i in part], learned) for part in shares(rows, crew.count)])
            steps.update(tokens=sum(len(row.ids) for row in rows), **step_measures(told, learned))

            if steps.look_due:
                general = fit(lambda most: look(base, validation.replay, most, config))
                replayed = {f"replay_{name}": value for name, value in general.items()}
                steps.look(**fit(lambda most: look(base, validation.rows, most, config)), **replayed)
            steps.save_if_due()

    return steps.publish(())


def _planned(base: Base, train: Mix, validation: HeldOut, config: PretrainConfig) -> Plan:
    packs = [*train.packs, *train.replay]
    rows = [row for pack in packs for row in pack]
    most = config.batch_size * max(map(len, packs))
    return require_memory(base, [*rows, *validation.rows], most, config, _tokens(base, train, config))


def _tokens(base: Base, train: Mix, config: PretrainConfig) -> tuple[int, ...]:
    return tokens_to_train(base, config, (row for pack in (*train.packs, *train.replay) for row in pack))
