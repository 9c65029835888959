"""A causal language model from nothing: a loop over batches that are a function of the step alone. Makes weft-nano.

The caller gives `batches(step) -> [Batch, …]`: rows with a loss weight per token, which run over their forest as in
every other method. Since the step alone decides the rows, resuming needs neither a replay nor a saved generator, and an
interrupted run ends in the same bytes as an undisturbed one. Hidden matrices learn by Muon (Jordan et al. 2024;
torch.optim.Muon with the AdamW-matched rate of Liu et al. 2025, arXiv:2502.16982), embeddings and norms by AdamW.
Left out on purpose: several devices, first values (the model comes with them), evaluation (the caller's `watch` does
it). A base that is there already goes on learning from documents in `pretrain.py`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.errors import TrainError
from weft.forest.logprobs import learned_logprobs
from weft.models.precision import numbers
from weft.records import Tokens
from weft.settings import Config
from weft.train import checkpoint, schedules
from weft.train.checkpoint_choice import choose, set_aside
from weft.train.losses import nll


class FromScratchConfig(Config):
    """Pretraining from rows of token ids."""

    steps: int = Field(default=1000, ge=1)
    """Optimizer steps of the whole run."""
    schedule: schedules.ScheduleName = "wsd"
    """Shape of the learning rate; `wsd` allows `steps` to be decided late."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps in which the rate rises to its peak."""
    decay_steps: int = Field(default=200, ge=0)
    """Last steps in which `wsd` falls to `final_rate`."""
    final_rate: float = Field(default=0.02, ge=0, le=1)
    """Rate at the end, as a part of the peak."""
    matrix_rate: float = Field(4e-3, gt=0)
    """Peak rate of the hidden matrices under Muon (the scale of AdamW rates)."""
    other_rate: float = Field(3e-3, gt=0)
    """Peak rate of embeddings and norms under AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled decay of matrices and embeddings; norms have none."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    seed: int = 0
    """Seed of torch's generator at the start; the rows have their own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of matrix products; weights and sums stay float32."""
    checkpoint_seconds: float = Field(default=300.0, ge=0)
    """Wall time between checkpoints; 0 writes one after every step."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept; older ones are deleted once a newer one is complete."""
    log_seconds: float = Field(default=60.0, ge=0)
    """Wall time between lines of the log."""


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass, of any lengths."""

    rows: tuple[Tokens, ...]
    """Learned where the weight is above 0."""
    weights: Tensor
    """(N,) float32: the weight of each learned token, row after row."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows, a shared beginning counted in each."""
        return sum(len(row.ids) for row in self.rows)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    tokens: int
    seconds: float
    loss: float


def collate(rows: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Batch:
    """Rows of ids and weights: `weights[i]` is the weight of predicting `ids[i]` from those before it.

    A row's first weight does not count: nothing stands before the first token.
    """
    made, given = [], []
    for ids, weights in rows:
        learn = (False, *(weight > 0 for weight in weights[1:]))
        made.append(Tokens(tuple(ids), learn))
        given += [weight for weight, learned in zip(weights, learn, strict=True) if learned]
    return Batch(tuple(made), torch.tensor(given))


def weighted_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Sum of weight times cross-entropy over the batch, a scalar."""
    logprobs = learned_logprobs(model, batch.rows)
    return nll(logprobs, batch.weights.to(logprobs.device))


def optimizers(model: nn.Module, config: FromScratchConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest (embeddings decay, norms do not)."""
    matrices, embeddings, vectors = [], [], []
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in embedded:
            embeddings.append(parameter)
        elif parameter.ndim == 2:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=config.matrix_rate, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(
        [
            {"params": embeddings, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.other_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    return [muon, adam]


def _save(folder: Path, model: nn.Module, made: Sequence[torch.optim.Optimizer], state: dict) -> Path:
    tensors = {f"model.{name}": p for name, p in model.named_parameters()}
    for number, optimizer in enumerate(made):
        tensors |= checkpoint.optimizer_tensors(optimizer, f"optimizer{number}")
    path = folder / checkpoint.folder_name(state["step"])
    checkpoint.save(path, tensors, {**state, "random": checkpoint.random_state()})
    return path


def _restore(
    folder: Path, model: nn.Module, made: Sequence[torch.optim.Optimizer], report: Callable[[str], None]
) -> dict:
    """State of the newest sound checkpoint put into model and optimizers; {} when there is none."""
    chosen = choose(folder)
    if chosen is None:
        return {}
    for damaged, reason in chosen.damaged.items():
        report(f"passed over: {reason}")
        set_aside(damaged)
    own = dict(model.named_parameters())
    given = {name.removeprefix("model."): t for name, t in chosen.tensors.items() if name.startswith("model.")}
    if own.keys() != given.keys() or any(own[n].shape != given[n].shape for n in own):
        raise TrainError(
            f"{folder}: holds another model ({len(given)} tensors), this one has {len(own)} of other names or shapes. "
            "Give the settings that the run began with, or an empty folder."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])
    for number, optimizer in enumerate(made):
        checkpoint.restore_optimizer(optimizer, chosen.tensors, f"optimizer{number}")
    checkpoint.restore_random_state(chosen.state["random"])
    return chosen.state


def run(
    model: nn.Module,
    batches: Callable[[int], Sequence[Batch]],
    config: FromScratchConfig,
    folder: Path,
    *,
    watch: Callable[[nn.Module, int], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
    stop_after: int | None = None,
) -> Result:
    """Train `model` (a `Decoder`, or a causal model of transformers) in place, from the newest checkpoint in `folder`.

    `watch(model, step)` gives named numbers at each checkpoint. `stop_after` ends this call early, after that step,
    with a checkpoint.
    Raises TrainError on a loss or gradient that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    made = optimizers(model, config)
    state = _restore(folder, model, made, report)
    step, tokens, seconds, loss = (
        state.get(k, d) for k, d in (("step", 0), ("tokens", 0), ("seconds", 0.0), ("loss", math.nan))
    )
    end = min(config.steps, stop_after or config.steps)
    began = logged = saved = time.monotonic()
    logged_tokens, history = tokens, []
    model.train()
    while step < end:
        scale = schedules.rate(
            config.schedule,
            step,
            config.steps,
            warmup=config.warmup_steps,
            decay=config.decay_steps,
            final=config.final_rate,
        )
        for optimizer, peak in zip(made, (config.matrix_rate, config.other_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        parts = batches(step)
        weight = sum(float(b.weights.sum()) for b in parts)
        total = 0.0
        for batch in parts:
            with numbers(model, config.precision):
                part = weighted_loss(model, batch) / weight
            part.backward()
            total += part.item()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise TrainError(
                f"step {step}: loss {total}, gradient norm {norm}; expected finite numbers. "
                f"Lower matrix_rate ({config.matrix_rate}) or other_rate ({config.other_rate}) and go on from the last "
                "checkpoint."
            )
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens, loss = step + 1, tokens + sum(b.tokens for b in parts), total
        history.append(total)
        now = time.monotonic()
        if now - logged >= config.log_seconds or step == end:
            speed = (tokens - logged_tokens) / max(now - logged, 1e-9)
            left = (now - logged) / len(history) * (config.steps - step)
            line = {
                "step": step,
                "tokens": tokens,
                "loss": sum(history) / len(history),
                "gradient_norm": norm,
                "rate": scale,
                "tokens_per_second": round(speed),
                "seconds": round(seconds + now - began),
                "seconds_left": round(left),
            }
            _log(folder, line, report)
            logged, logged_tokens, history = now, tokens, []
        if now - saved >= config.checkpoint_seconds or step == end:
            done = {"step": step, "tokens": tokens, "seconds": seconds + now - began, "loss": loss}
            _save(folder, model, made, done)
            checkpoint.rotate(folder, config.keep)
            if watch is not None:
                model.eval()
                _log(folder, {"step": step, "watch": watch(model, step)}, report)
                model.train()
            saved = time.monotonic()
    return Result(step, tokens, seconds + time.monotonic() - began, loss)


def _log(folder: Path, line: dict, report: Callable[[str], None]) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    report("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))
