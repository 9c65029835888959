"""Supervised fine-tuning on conversations: fetch, forward, backward, step, log, save, in that order, on one page.

Loss is the mean over the learned tokens of the whole optimizer step, whatever the micro-batches. The parameters of the
best validation are what is published. State is saved between steps only; a run that was killed goes on from there and
ends in the same bytes. Nothing is published that is not finite or that training did not change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from weft.errors import TrainError
from weft.models import lora, memory, precision
from weft.models.export import save_model
from weft.models.load import Base
from weft.models.logprobs import learned_logprobs
from weft.progress import Progress
from weft.records import Conversation, Tokens
from weft.runs import Run, explained
from weft.settings import Resolved
from weft.train import auto, checkpoint
from weft.train.batches import epoch_batches, micro_batches
from weft.train.needs import training_bytes
from weft.train.schedules import rate
from weft.train.sft_config import SftConfig

MICRO_TOKENS = 8192
"""Padded tokens per forward pass: bounds memory, does not change the result beyond rounding."""
SAVE_SECONDS = 15.0
"""Most work that a crash can cost."""


@dataclass(frozen=True)
class Trained:
    """The record of a finished training; `curve` holds (step, loss in nats per token) pairs."""

    method: str
    trainable_parameters: int
    total_parameters: int
    steps: int
    best_step: int
    best_loss: float
    stopped_because: str
    seconds: float
    tokens: int
    skipped_lines: tuple[int, ...]
    result: str
    curve: dict[str, list[tuple[int, float]]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _State:
    """Everything beside tensors that a resumed run needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = -1
    best_loss: float = math.inf
    looks_without_gain: int = 0
    curve: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {"train": [], "validation": []})


def settle(settings: Resolved[SftConfig], base: Base, examples: int) -> Resolved[SftConfig]:
    """The same settings with every `auto` resolved from the base and the number of training examples."""
    config = settings.config
    if config.learning_rate == "auto":
        rate, why = auto.learning_rate(base.parameters, config.full)
        settings = settings.replace(why, learning_rate=rate)
    if config.epochs == "auto":
        epochs, why = auto.epochs(examples)
        settings = settings.replace(why, epochs=epochs)
    if config.precision == "auto":
        settings = settings.replace(
            "auto: what the processor multiplies", precision=precision.for_training(base.device)
        )
    if config.max_tokens == "auto":
        settings = settings.replace(f"auto: the context of {base.name}", max_tokens=base.context)
    if config.validate_every == "auto":
        every, why = auto.validate_every(math.ceil(examples / config.batch_size))
        settings = settings.replace(why, validate_every=every)
    return settings


def rehearse(base: Base, train: Sequence[Conversation], validation: Sequence[Conversation], config: SftConfig) -> None:
    """Raise now what `train` would refuse after everything before it was paid for. `config` must be settled."""
    rows, _ = _render(base, train, config)
    held_out, _ = _render(base, validation, config)
    trained = base.parameters
    if not config.full:
        trained = sum(parameter.numel() for parameter in lora.wrap(base.model, config.lora, config.seed))
        lora.unwrap(base.model)
    needed = needed_bytes(base, [*rows, *held_out], trained, config)
    memory.require(
        needed, f"training {trained:,} parameters of {base.name}", "Lower --max-tokens or --batch-size, choose"
    )


def needed_bytes(base: Base, rows: Sequence[Tokens], trained: int, config: SftConfig) -> int:
    """Peak memory of a step beyond the loaded weights, from above."""
    longest = max(len(row.ids) for row in rows)
    tokens = max(longest, min(MICRO_TOKENS, config.batch_size * longest))
    learned = max(sum(row.learn) for row in rows)
    return training_bytes(base.model.config, trained, tokens, longest, learned)


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
    parameters = _trainable(base.model, config)
    initial = [parameter.detach().clone() for parameter in parameters]
    torch.manual_seed(config.seed)  # dropout draws from the global generator
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay, fused=True)
    best = [parameter.detach().clone() for parameter in parameters]
    state = _resume(run, parameters, best, optimizer)

    lengths = [len(row.ids) for row in rows]
    per_epoch = math.ceil(len(rows) / config.batch_size)
    total = per_epoch * int(config.epochs)
    warmup = round(config.warmup * total)
    peak, every = float(config.learning_rate), int(config.validate_every)
    started = saved = time.monotonic()
    before = state.seconds
    progress.start("train", total, "steps")
    progress.advance(state.step)
    stopped = "all epochs done"
    batches: list[list[int]] = []
    base.model.train()
    while state.step < total:
        epoch, position = divmod(state.step, per_epoch)
        if position == 0 or not batches:
            batches = epoch_batches(lengths, config.batch_size, config.seed, epoch)

        step_rows = [rows[i] for i in batches[position]]
        learned = sum(sum(row.learn) for row in step_rows)
        loss = 0.0
        for part in micro_batches(step_rows, MICRO_TOKENS):
            with _numbers(base, config):
                part_loss = -learned_logprobs(base.model, part).sum() / learned
            part_loss.backward()
            loss += float(part_loss.detach())
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainError(
                f"step {state.step + 1}: loss {loss}, gradient norm {norm}; expected finite numbers. "
                f"Nothing is published. Lower --learning-rate (now {peak:g}) and name another --out."
            )
        now = peak * rate(config.schedule, state.step, total, warmup=warmup, decay=total // 5)
        for group in optimizer.param_groups:
            group["lr"] = now
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        state.step += 1
        state.tokens += sum(lengths[i] for i in batches[position])
        state.seconds = before + time.monotonic() - started
        state.curve["train"].append((state.step, loss))
        run.metric(step=state.step, loss=loss, learning_rate=now, gradient_norm=norm, tokens=state.tokens)
        progress.advance(1, _note(state, loss))

        if state.step % every == 0 or state.step == total:
            _validate(run, base, held_out, parameters, best, state, config)
            if state.looks_without_gain >= config.patience:
                stopped = f"validation loss has not improved for {config.patience} looks"
                break
        if config.max_minutes and state.seconds > 60 * config.max_minutes:
            if state.best_step < 0:
                _validate(run, base, held_out, parameters, best, state, config)
            stopped = f"the time limit of {config.max_minutes:g} minutes"
            break
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(run, parameters, best, optimizer, state)
            saved = time.monotonic()
    progress.finish(f"{stopped}; best validation loss {state.best_loss:.4f} at step {state.best_step}")

    result = _publish(run, base, parameters, best, initial, config)
    return Trained(
        method="full" if config.full else "lora",
        trainable_parameters=sum(parameter.numel() for parameter in parameters),
        total_parameters=base.parameters,
        steps=state.step,
        best_step=state.best_step,
        best_loss=state.best_loss,
        stopped_because=stopped,
        seconds=round(state.seconds, 1),
        tokens=state.tokens,
        skipped_lines=tuple(skipped),
        result=result,
        curve=state.curve,
    )


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


def _numbers(base: Base, config: SftConfig) -> torch.autocast:
    """The arithmetic of a forward pass: parameters stay as they are, products are made in the chosen precision."""
    return torch.autocast(base.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def _trainable(model: nn.Module, config: SftConfig) -> list[nn.Parameter]:
    if not config.full:
        return lora.wrap(model, config.lora, config.seed)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def _validate(
    run: Run,
    base: Base,
    rows: Sequence[Tokens],
    parameters: Sequence[Tensor],
    best: Sequence[Tensor],
    state: _State,
    config: SftConfig,
) -> None:
    """Look at the validation loss; keep a copy of the parameters where it is the best so far."""
    base.model.eval()
    with torch.no_grad(), _numbers(base, config):
        parts = [learned_logprobs(base.model, part) for part in micro_batches(rows, MICRO_TOKENS)]
    base.model.train()
    loss = -float(torch.cat(parts).mean())
    state.curve["validation"].append((state.step, loss))
    if not math.isfinite(loss):
        raise TrainError(
            f"step {state.step}: validation loss {loss}; expected a finite number. "
            "Nothing is published. Lower --learning-rate and name another --out."
        )
    run.metric(step=state.step, validation_loss=loss)
    if loss < state.best_loss - config.min_improvement:
        state.best_loss, state.best_step, state.looks_without_gain = loss, state.step, 0
        with torch.no_grad():
            for kept, parameter in zip(best, parameters, strict=True):
                kept.copy_(parameter)
    else:
        state.looks_without_gain += 1


def _save(
    run: Run,
    parameters: Sequence[Tensor],
    best: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    state: _State,
) -> None:
    tensors = {f"parameter.{i}": parameter for i, parameter in enumerate(parameters)}
    tensors |= {f"best.{i}": kept for i, kept in enumerate(best)}
    tensors |= checkpoint.optimizer_tensors(optimizer, "optimizer")
    root = run.path("checkpoints")
    with explained(root):
        saved = asdict(state) | {"random": checkpoint.random_state()}
        checkpoint.save(root / checkpoint.folder_name(state.step), tensors, saved)
        checkpoint.rotate(root, 2)


def _resume(run: Run, parameters: Sequence[Tensor], best: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> _State:
    """State of the newest whole checkpoint, put back in place; a fresh one where there is none."""
    checkpoint.rotate(run.path("checkpoints"), 2)  # sweeps away what a kill left half written
    folder = checkpoint.latest(run.path("checkpoints"))
    if folder is None:
        run.forget_metrics_after(0)
        return _State()
    tensors, saved = checkpoint.load(folder)
    with torch.no_grad():
        for i, (parameter, kept) in enumerate(zip(parameters, best, strict=True)):
            parameter.copy_(tensors[f"parameter.{i}"])
            kept.copy_(tensors[f"best.{i}"])
    checkpoint.restore_optimizer(optimizer, tensors, "optimizer")
    checkpoint.restore_random_state(saved.pop("random"))
    state = _State(**saved)
    run.forget_metrics_after(state.step)
    run.event("resumed", step=state.step)
    return state


def _publish(
    run: Run,
    base: Base,
    parameters: Sequence[Tensor],
    best: Sequence[Tensor],
    initial: Sequence[Tensor],
    config: SftConfig,
) -> str:
    """Put the best parameters back and write them; returns the folder's name within the run."""
    if not all(bool(kept.isfinite().all()) for kept in best):
        raise TrainError("the trained parameters hold non-finite numbers; nothing is published. Lower --learning-rate.")
    if all(torch.equal(kept, first) for kept, first in zip(best, initial, strict=True)):
        raise TrainError(
            "training changed nothing, so there is nothing to publish. Raise --learning-rate or --epochs, "
            "or check that the examples leave tokens to learn."
        )
    with torch.no_grad():
        for parameter, kept in zip(parameters, best, strict=True):
            parameter.copy_(kept)
    base.model.eval()
    if config.full:
        save_model(base, run.path("model"))
        return "model"
    lora.save_adapter(base.model, run.path("adapter"), base_name=base.name, config=config.lora)
    return "adapter"


def _note(state: _State, loss: float) -> str:
    look = f", validation {state.curve['validation'][-1][1]:.3f}" if state.curve["validation"] else ""
    return f"loss {loss:.3f}{look}"
