"""Where a training stands, kept between steps and found again: parameters, best parameters, optimizer, random states.

What a checkpoint is on disk is `checkpoint.py`'s business; when one is written is that of `steps.py`. Of the processes
of a torchrun the first alone writes; what is sharded lies there whole, so that any number of processes goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from weft.errors import ResourceError
from weft.runs import Run, explained
from weft.train import checkpoint, pieces, processes
from weft.train.checkpoint_choice import Chosen, choose, set_aside
from weft.train.conditions import changed
from weft.train.warn import warn

KEPT = 2
"""Checkpoints kept: the newest and, should that one be damaged, the one before."""


@dataclass
class State:
    """Everything beside tensors that a resumed run needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = -1
    best_loss: float = math.inf
    best_score: float = -math.inf
    """What the best was chosen by, the more the better: minus the loss, or a grader's score."""
    best_measures: dict[str, float] = field(default_factory=dict)
    looks_without_gain: int = 0
    curve: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {"train": [], "validation": []})
    conditions: dict[str, str] = field(default_factory=dict)
    """Under which the steps since the last resume were done; empty in what an earlier version of weft saved."""
    not_exact: list[str] = field(default_factory=list)
    """Each resume under other conditions, in words."""


def save(
    run: Run, state: State, parameters: Sequence[Tensor], best: Sequence[Tensor], optimizer: checkpoint.HasState
) -> None:
    """A checkpoint of this moment; older ones are deleted once it stands. Raises ResourceError, naming its size.

    Under a torchrun all processes must call it at the same step.
    """
    tensors = {f"parameter.{i}": parameter for i, parameter in enumerate(parameters)}
    tensors |= {f"best.{i}": kept for i, kept in enumerate(best)}
    tensors |= checkpoint.optimizer_tensors(optimizer, "optimizer")
    if processes.rank():
        pieces.lend(tensors)
        return
    root = run.path("checkpoints")
    write = pieces.write if any(map(pieces.is_piece, parameters)) else checkpoint.write_at_once
    try:
        with explained(root):
            saved = asdict(state) | {"random": checkpoint.random_state()}
            checkpoint.save(root / checkpoint.folder_name(state.step), tensors, saved, write)
            checkpoint.rotate(root, KEPT)
    except ResourceError as error:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        raise ResourceError(f"{error} A checkpoint of this training takes about {needed:,} bytes.") from None


def resume(
    run: Run,
    parameters: Sequence[Tensor],
    best: Sequence[Tensor],
    optimizer: checkpoint.HasState,
    conditions: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> State:
    """The newest sound checkpoint put back in place; a fresh state where there is none.

    Damaged ones that are newer are set aside, with a warning among the run's events and to `say`: what they held is
    done again. Where it was made under other `conditions` that is said there too, and noted in the state. Raises
    DamageError where none is sound.
    """
    root = run.path("checkpoints")
    if processes.rank() == 0:
        checkpoint.sweep(root)
    chosen = choose(root)
    if chosen is None:
        run.forget_metrics_after(0)
        return State(conditions=dict(conditions))
    _pass_over(run, chosen, say)
    with torch.no_grad():
        for i, (parameter, kept) in enumerate(zip(parameters, best, strict=True)):
            parameter.copy_(pieces.apart(chosen.tensors[f"parameter.{i}"], parameter))
            kept.copy_(pieces.apart(chosen.tensors[f"best.{i}"], kept))
    checkpoint.restore_optimizer(optimizer, chosen.tensors, "optimizer")
    checkpoint.restore_random_state(chosen.state.pop("random"))
    state = State(**chosen.state)
    run.forget_metrics_after(state.step)
    _note_conditions(run, state, conditions, say)
    return state


def _note_conditions(run: Run, state: State, now: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Take down that training goes on, and warn where roundings are others from here on."""
    if difference := changed(state.conditions, now):
        told = (
            f"Training goes on from step {state.step} with {difference}: its result is not exact, for it can differ in "
            "rounding from that of an undisturbed training and will not be equal to it to the byte."
        )
        warn(run, say, told, was=state.conditions, now=dict(now))
        state.not_exact.append(f"from step {state.step} on with {difference}")
    run.event("resumed", step=state.step, **({"not_exact": difference} if difference else {}))
    state.conditions = dict(now)


def _pass_over(run: Run, chosen: Chosen, say: Callable[[str], None]) -> None:
    for folder, reason in chosen.damaged.items():
        told = (
            f"What was saved at step {checkpoint.step_of(folder)} is damaged and was set aside; training goes on from "
            f"step {chosen.step}, and its result is the same. Look after the disk."
        )
        warn(run, say, told, reason=reason)  # first: a kill in between says it twice, never not at all
        if processes.rank() == 0:
            with explained(folder):
                set_aside(folder)
