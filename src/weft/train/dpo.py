"""Direct preference optimization on pairs of replies: fetch, forward, backward, step, log, save, on one page.

Rafailov et al. 2023, arXiv:2305.18290; the losses are in `losses.py`. Both replies of a pair go through one forward
pass after the same prompt. The reference is the base itself: what it gives to every reply is computed once, before
anything learns, and kept in memory: there is no second model, also with `full`. Loss is the mean over the pairs of
the optimizer step. What every method does alike at a step is in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from weft.errors import TrainError
from weft.forest.logprobs import learned_logprobs
from weft.models import lora
from weft.models.load import Base
from weft.models.precision import numbers
from weft.progress import Progress
from weft.records import Preference, Tokens
from weft.runs import Run
from weft.settings import Resolved
from weft.train import auto
from weft.train.answering import only_answering
from weft.train.batches import families, micro_batches
from weft.train.crew import hands, shares
from weft.train.dpo_config import DpoConfig
from weft.train.ending import require_ending
from weft.train.fit import Fit
from weft.train.held_out import require_held_out
from weft.train.losses import dpo, per_leaf, rewards
from weft.train.needs import Plan, keep, require_memory
from weft.train.settle import settled
from weft.train.sharded import frozen, together
from weft.train.steps import Steps, Trained
from weft.train.stop import Stop
from weft.train.too_long import tell_left_out
from weft.train.vocabulary import require_tokens, tokens_to_train


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies as tokens after the same prompt, and the log-probabilities that the reference gives them."""

    chosen: Tokens
    rejected: Tokens
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def rows(self) -> tuple[Tokens, Tokens]:
        return self.chosen, self.rejected

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


def settle(settings: Resolved[DpoConfig], base: Base, train: Sized) -> Resolved[DpoConfig]:
    """The same settings with every `auto` resolved from the base and the number of training pairs."""
    return settled(settings, base, train, auto.preference_rate)


def rehearse(base: Base, train: Sequence[Preference], validation: Sequence[Preference], config: DpoConfig) -> None:
    """Raise now what `train` would refuse after everything before it was paid for. `config` must be settled."""
    require_held_out(validation, config, "pairs", "prompts")
    pairs, _ = render(base, train, int(config.max_tokens))
    held_out, _ = render(base, validation, int(config.max_tokens))
    require_ending(base, config)
    require_tokens(base, config)
    _planned(base, pairs, held_out, config)


def train(
    run: Run,
    base: Base,
    train: Sequence[Preference],
    validation: Sequence[Preference],
    config: DpoConfig,
    progress: Progress,
    stop: Stop | None = None,
) -> Trained:
    """Tune `base` in place, publish `adapter/` (or `model/` with `full`) in the run's folder, return the record.

    `config` must be settled, `base` as it was loaded. Raises TrainError on non-finite numbers, nothing to learn, or
    nothing learned; Stopped where `stop` or SIGTERM says so.
    """
    require_held_out(validation, config, "pairs", "prompts")
    pairs, skipped = render(base, train, int(config.max_tokens))
    held_out, skipped_validation = render(base, validation, int(config.max_tokens))
    tell_left_out(run, progress.say, min(int(config.max_tokens), base.context), skipped, skipped_validation)
    plan = keep(run, _planned(base, pairs, held_out, config), progress)
    steps = Steps(run, base, config, len(pairs), progress, stop, config.stop_on, _tokens(base, pairs, config))
    fit = Fit(run, base.model, plan, steps.parameters, config.recompute, progress.say)

    with steps.listening(), frozen(base.model, config.precision):
        # The base has not moved yet, also on a resume: what was learned comes back with the first batch.
        with lora.disabled(base.model):
            known = with_reference(base, [*pairs, *held_out], plan.micro_tokens, config, progress)
        pairs, held_out = known[: len(pairs)], known[len(pairs) :]

        def learn(part: Sequence[int], size: int) -> tuple[float, Tensor]:
            return fit(lambda most: add_gradient(base, [pairs[i] for i in part], size, most, config))

        count = hands(base.model, config.batch_size)
        with together(learn, steps.parameters, count, base.model) as crew:
            kin = families([pair.rows[0] for pair in pairs], config.batch_size)
            for batch in steps.batches([pair.tokens for pair in pairs], kin):
                parts = shares([pairs[i].rows[0] for i in batch], crew.count)
                told = crew([([batch[i] for i in part], len(batch)) for part in parts])
                measures = _measures(torch.cat([margins for _, margins in told]))
                steps.update(sum(loss for loss, _ in told), sum(pairs[i].tokens for i in batch), **measures)

                if steps.look_due:
                    steps.look(**fit(lambda most: _validation(base, held_out, most, config)))
                steps.save_if_due()

    return steps.publish(skipped, skipped_validation)


def add_gradient(base: Base, pairs: Sequence[Pair], size: int, most: int, config: DpoConfig) -> tuple[float, Tensor]:
    """Add the pairs' gradient of the mean over the step's `size` pairs; their part of the loss, and their margins.

    `most`: tokens of a forward pass.
    """
    loss, margins = 0.0, []
    for part in micro_batches(base.model, pairs, most, lambda pair: pair.rows):
        with numbers(base.model, config.precision):
            given = reply_logprobs(base.model, part)
        part_loss = losses(given, part, config).sum() / size
        part_loss.backward()
        loss += float(part_loss.detach())
        margins.append(_margins(given.detach(), part, config.beta))
    return loss, torch.cat(margins)


def reply_logprobs(model: nn.Module, pairs: Sequence[Pair]) -> Tensor:
    """Log-probability of each whole reply and its end token, (P, 2): chosen, rejected. One forward pass."""
    rows = [row for pair in pairs for row in pair.rows]
    return per_leaf(learned_logprobs(model, rows), [sum(row.learn) for row in rows]).view(-1, 2)


def losses(given: Tensor, pairs: Sequence[Pair], config: DpoConfig) -> Tensor:
    """The loss of each pair, (P,), from the log-probabilities `given` (P, 2) by the learner."""
    reference = given.new_tensor([pair.reference for pair in pairs])
    if config.loss == "ipo":  # its target is per token
        lengths = given.new_tensor([[sum(row.learn) for row in pair.rows] for pair in pairs])
        given, reference = given / lengths, reference / lengths
    return dpo(given[:, 0], given[:, 1], reference[:, 0], reference[:, 1], config.beta, config.loss)


def with_reference(base: Base, pairs: Sequence[Pair], most: int, config: DpoConfig, progress: Progress) -> list[Pair]:
    """The pairs with what `base`, as it answers now, gives to their replies; in their order.

    `most`: tokens of a forward pass.
    """
    progress.start("reference", len(pairs), "pairs")
    known: dict[int, tuple[float, float]] = {}
    for part in micro_batches(base.model, range(len(pairs)), most, lambda i: pairs[i].rows):
        with only_answering(base, config):
            given = reply_logprobs(base.model, [pairs[i] for i in part])
        known |= {i: (chosen, rejected) for i, (chosen, rejected) in zip(part, given.tolist(), strict=True)}
        progress.advance(len(part))
    progress.finish("log-probabilities of the base")
    return [replace(pair, reference=known[i]) for i, pair in enumerate(pairs)]


def _validation(base: Base, pairs: Sequence[Pair], most: int, config: DpoConfig) -> dict[str, float]:
    """Mean `loss` of the held-out pairs, and how the learner's rewards tell the replies apart; nothing without any."""
    if not pairs:
        return {}
    lost, margins = [], []
    for part in micro_batches(base.model, pairs, most, lambda pair: pair.rows):
        with only_answering(base, config):
            given = reply_logprobs(base.model, part)
        lost.append(losses(given, part, config))
        margins.append(_margins(given, part, config.beta))
    return {"loss": float(torch.cat(lost).mean()), **_measures(torch.cat(margins))}


def _margins(given: Tensor, pairs: Sequence[Pair], beta: float) -> Tensor:
    """Reward of the better reply less that of the worse, (P,)."""
    reward = rewards(given, given.new_tensor([pair.reference for pair in pairs]), beta)
    return reward[:, 0] - reward[:, 1]


def _measures(margins: Tensor) -> dict[str, float]:
    """Share of pairs whose better reply has the higher reward, and by how much on average."""
    return {"reward_accuracy": float((margins > 0).float().mean()), "reward_margin": float(margins.mean())}


def render(base: Base, examples: Sequence[Preference], max_tokens: int) -> tuple[list[Pair], list[int]]:
    """Pairs as tokens, and the lines of those of which a reply is too long. Raises TrainError where these are all."""
    most = min(max_tokens, base.context)
    pairs, skipped = [], []
    for example in examples:
        chosen, rejected = (base.chat.example(example.answered(text)) for text in (example.chosen, example.rejected))
        if max(len(chosen.ids), len(rejected.ids)) > most:
            skipped.append(example.line)
        else:
            pairs.append(Pair(chosen, rejected))
    if examples and not pairs:
        raise TrainError(
            f"none of the {len(examples)} pairs fits into {most} tokens. "
            "Raise --max-tokens, use a base with a longer context, or shorten prompts and replies."
        )
    return pairs, skipped


def _planned(base: Base, pairs: Sequence[Pair], held_out: Sequence[Pair], config: DpoConfig) -> Plan:
    rows = [row for pair in (*pairs, *held_out) for row in pair.rows]
    return require_memory(base, rows, 2 * config.batch_size, config, _tokens(base, pairs, config))


def _tokens(base: Base, pairs: Sequence[Pair], config: DpoConfig) -> tuple[int, ...]:
    return tokens_to_train(base, config, (row for pair in pairs for row in pair.rows))
