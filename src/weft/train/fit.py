"""Forward passes of a size that memory holds: when it runs out all the same, half of it, said, and begun anew.

A step that was begun anew ends in the gradients of an undisturbed one with the smaller size: what it had added is
dropped, and the random generator is put back. The smaller size goes into the run's plan: a run that goes on begins with
it, and does not run out of memory again. A step that several processes share cannot be begun anew by one of them: its
pass has parts in all. There the training ends, and goes on from its checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from weft.errors import ResourceError
from weft.models.decoder import Decoder
from weft.runs import Run
from weft.train import processes
from weft.train.needs import Plan, shrink

T = TypeVar("T")
SIGNS = (
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory",
    "could not create a primitive", "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
"""What libraries say in a RuntimeError where memory is lacking."""


class Fit:
    """Call it with work that takes the most tokens of a forward pass; returns what the work returns."""

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        plan: Plan,
        parameters: Sequence[nn.Parameter],
        wish: str,
        say: Callable[[str], None],
    ) -> None:
        """`plan` must be that of `run`. `parameters`: whose gradients the work adds to, from none; `wish`: the setting
        `recompute`.
        """
        self.micro_tokens, self._longest = plan.micro_tokens, plan.longest
        self._run, self._model, self._parameters, self._say = run, model, parameters, say
        self._device = next(model.parameters()).device
        self._again, self._may = plan.recompute, wish != "never"
        recompute(model, plan.recompute)

    def __call__(self, work: Callable[[int], T]) -> T:
        """Raises ResourceError where not even one example, with layers computed again, fits, and under a torchrun; what
        `work` raises."""
        drawn, there = torch.get_rng_state(), self._drawn_there()
        while True:
            try:
                return work(self.micro_tokens)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            # Outside of the handler: the error's frames hold what the pass had made.
            for parameter in self._parameters:
                parameter.grad = None
            torch.set_rng_state(drawn)
            if there is not None:
                torch.cuda.set_rng_state(there, self._device)
            gc.collect()
            smaller = self._shrink()
            if processes.count() > 1:
                raise _shared(smaller)
            self._say(f"    memory ran out: the step begins anew, {smaller}")

    def _drawn_there(self) -> torch.Tensor | None:
        """The state of the device's own generator, which draws what is dropped; the CPU's draws the rest."""
        return torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    def _shrink(self) -> str:
        """Make passes smaller from now on, in the plan too; says how."""
        if self.micro_tokens > 1:
            half = self.micro_tokens // 2
            self.micro_tokens = half if half >= self._longest else 1
            told = f"with {half:,} tokens at once" if self.micro_tokens > 1 else "with one example at once"
        elif self._may and not self._again:
            self._again = True
            recompute(self._model, True)
            told = "with layers computed again instead of kept"
        else:
            raise ResourceError(
                "memory ran out with one example at a time. The last checkpoint stands, and the same command goes on. "
                f"Close other programs or raise the container's limit; or begin anew with --max-tokens below "
                f"{self._longest:,}, a smaller --lora-r, or a smaller base."
            )
        shrink(self._run, self.micro_tokens, self._again)
        return told


def _shared(smaller: str) -> ResourceError:
    # The plan of the run is the first process's; what another one wrote down ends with it.
    goes_on = f"goes on from the last checkpoint{f', {smaller}' if processes.rank() == 0 else ''}"
    return ResourceError(
        f"memory ran out in process {processes.rank()} of {processes.count()}. The same torchrun command {goes_on}. If "
        "it happens again, begin anew with a lower --max-tokens or --batch-size, or with more machines."
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is lacking, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in SIGNS)


def recompute(model: nn.Module, on: bool) -> None:
    """Let layers be computed again on the way back, or not; gradients stay what they are."""
    if isinstance(model, Decoder):
        model.recompute = on
    elif on:
        model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    elif getattr(model, "is_activation_checkpointing", False):
        model.activation_checkpointing_disable()  # type: ignore[operator]
