"""One training by all processes of a `torchrun`: each holds a shard of the frozen base and learns from its share of
the rows.

    torchrun --nproc-per-node 2 -m weft train DATA

All run the same loop on the same data. In each step every one of them adds the gradient of its rows, weighted by the
learned tokens of the whole step, and the sums are made equal everywhere; so all take the same optimizer step, and what
learns is whole in each of them. Frozen weights are sharded block by block by torch's `fully_shard`, which brings a
block together when it is its turn. With --full nothing is frozen: each process then holds all of the model.

The first process works in the run's folder, each other in a copy that ends with it.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from weft.errors import TrainError, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models.precision import frozen_as
from weft.progress import Progress, Silent
from weft.records import Tokens
from weft.runs import Run
from weft.train import processes
from weft.train.crew import Crew

Told = TypeVar("Told")


class Team(Generic[Told]):
    """A `Crew` whose hands are the processes of a torchrun; this one does the part that has its number."""

    def __init__(self, work: Callable[..., Told], parameters: Sequence[nn.Parameter], model: nn.Module) -> None:
        self.count = processes.count()
        self._work, self._parameters, self._model = work, parameters, model
        self._watching = False
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Team[Told]:
        processes.join()
        hook = self._model.get_input_embeddings().register_forward_pre_hook(self._begins)  # type: ignore[operator]
        self._opened.callback(hook.remove)
        with torch.no_grad():
            self._pass()  # what a model does once at its first pass, it does in all processes now
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()

    def __call__(self, parts: Sequence[tuple[Any, ...]]) -> list[Told]:
        """What each part's work told, in order; the parameters' gradients are the sums over all processes."""
        if len(parts) > self.count:
            raise TrainError(f"{len(parts)} parts for {self.count} processes")
        own = parts[processes.rank()] if processes.rank() < len(parts) else None
        told = None
        with processes.explained(), _own_draws():
            if own is not None:
                self._watching = True
                told = self._work(*own)
                self._watching = False
            while self._anyone_works(False):
                self._pass(learning=True)
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        processes.add_up([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        return processes.everyones(told)[: len(parts)]

    def _begins(self, *_: object) -> None:
        """A forward pass begins: all take part in it, for each holds a piece of every block."""
        if self._watching:
            self._anyone_works(True)

    def _anyone_works(self, here: bool) -> bool:
        flag = torch.tensor([float(here)])
        processes.add_up([flag])
        return bool(flag.item())

    def _pass(self, learning: bool = False) -> None:
        """A pass over two tokens that changes nothing: the others' blocks are brought together."""
        nothing = learned_logprobs(self._model, [Tokens((0, 0), (False, True))]).sum() * 0
        if learning:
            nothing.backward()


def together(
    work: Callable[..., Told], parameters: Sequence[nn.Parameter], hands: int, model: nn.Module
) -> Team[Told] | Crew[Told]:
    """Who shares a step: the processes of a torchrun, or else `hands` forks of this one."""
    return Team(work, parameters, model) if processes.count() > 1 else Crew(work, parameters, hands)


@contextlib.contextmanager
def frozen(model: nn.Module, precision: str) -> Iterator[None]:
    """`frozen_as`; under a torchrun the frozen weights of each block are sharded before, and stay so."""
    if processes.count() > 1:
        processes.join()
        shard(model, precision)
    with frozen_as(model, precision):
        yield


def shard(model: nn.Module, precision: str) -> int:
    """Shard the frozen parameters of each block over all processes, in place; returns how many numbers remain here.

    Those of a compact model are held as `precision` from then on.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    from weft.models.decoder import Decoder

    parts = blocks(model)
    within = {id(parameter) for block in parts for parameter in block.parameters()}
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    outside = {parameter for parameter in model.parameters() if id(parameter) not in within}
    if not any(not parameter.requires_grad for block in parts for parameter in block.parameters()):
        return sum(parameter.numel() for parameter in model.parameters())
    mesh = init_device_mesh(next(model.parameters()).device.type, (processes.count(),))
    for block in parts:
        for name, parameter in block.named_parameters() if isinstance(model, Decoder) else ():
            if parameter not in learning and (parameter.ndim > 1 or name.endswith("bias")):
                parameter.data = parameter.data.to(getattr(torch, precision))
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=learning)
    fully_shard(model, mesh=mesh, ignored_params=learning | outside)
    if isinstance(model, Decoder):
        register_fsdp_forward_method(model, "states")
    return sum(_here(parameter) for parameter in model.parameters())


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model: the members of its largest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    largest = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=())
    return list(largest)


def shared_run(create: Callable[[], Run]) -> Run:
    """The run that the first process creates; for the others a copy of its folder, removed when they end.

    Raises what `create` raises, in the first process; UsageError in one that does not see the folder.
    """
    if processes.count() == 1:
        return create()
    if processes.rank() == 0:
        run = create()
        processes.everyones(str(run.folder.resolve()))
        processes.everyones(None)  # the copies are made; from here on the folder changes
        return run
    original = Path(processes.agreed(None))
    if not original.is_dir():
        raise UsageError(
            f"process {processes.rank()} of {processes.count()} sees no folder {original}. Name one with --out that "
            "lies on a disk which all machines share."
        )
    copy = Path(tempfile.mkdtemp(prefix="weft-process-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns(".*", "epochs", "model"), dirs_exist_ok=True)
    processes.everyones(None)
    return Run(copy)


def listener(progress: Progress) -> Progress:
    """Who hears of the work: one process tells, the others keep silent."""
    return progress if processes.rank() == 0 else Silent()


@contextlib.contextmanager
def _own_draws() -> Iterator[None]:
    """Inside, each process draws its own random numbers; afterwards the generator is one draw on, in all alike."""
    seed = int(torch.randint(2**40, ()))
    state = torch.get_rng_state()
    torch.manual_seed(seed + processes.rank())
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _here(parameter: Tensor) -> int:
    local = getattr(parameter, "to_local", None)
    return (local() if callable(local) else parameter).numel()  # type: ignore[union-attr]
