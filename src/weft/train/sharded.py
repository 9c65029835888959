"""One training by all processes of a `torchrun`: each holds a shard of the base and learns from its share of the rows.

    torchrun --nproc-per-node 2 -m weft train DATA

All run the same loop on the same data. In each step every one of them adds the gradient of its rows, weighted by the
learned tokens of the whole step, and the gradient is summed over all. Weights are sharded block by block by torch's
`fully_shard`, which brings a block together when it is its turn:

    LoRA     the frozen weights of the blocks are sharded; the adapter is whole in each process, and so are its gradient
             and its optimizer, embeddings and head: all take the same optimizer step
    --full   everything is sharded, with gradients, moments and kept copies (`pieces.py`): each process takes the
             optimizer step of its pieces. What lies outside of the blocks is together for the length of a step

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
from torch import nn

from weft.errors import TrainError, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models.precision import frozen_as
from weft.progress import Progress, Silent
from weft.records import Tokens
from weft.runs import Run
from weft.train import pieces, processes
from weft.train.crew import Crew

Told = TypeVar("Told")

READ_WHERE_THEY_ARE = ("checkpoints", "model")
"""What is too large to be copied for each process: the first one writes it, the others only read it."""


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
        """What each part's work told, in order; the parameters' gradients, or this process's pieces of them, are the
        sums over all processes."""
        if len(parts) > self.count:
            raise TrainError(f"{len(parts)} parts for {self.count} processes")
        own = parts[processes.rank()] if processes.rank() < len(parts) else None
        told = None
        with processes.explained(), _own_draws(), _outside_together(self._model):
            if own is not None:
                self._watching = True
                told = self._work(*own)
                self._watching = False
            while self._anyone_works(False):
                self._pass(learning=True)
        whole = [parameter for parameter in self._parameters if not pieces.is_piece(parameter)]
        for parameter in whole:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        processes.add_up([parameter.grad for parameter in whole if parameter.grad is not None])
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
    """`frozen_as`; under a torchrun the frozen weights of each block are sharded before, and stay so.

    A model of which nothing is frozen is sharded since it learns (`learner.py`).
    """
    if processes.count() > 1 and not all(parameter.requires_grad for parameter in model.parameters()):
        shard(model, precision)
    with frozen_as(model, precision):
        yield


def shard(model: nn.Module, precision: str = "float32") -> int:
    """Shard the frozen parameters of each block over all processes, in place, or every parameter where none is frozen;
    returns how many numbers remain here.

    Frozen ones of a compact model are held as `precision` from then on. Gradients are sums over the processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    from weft.models.decoder import Decoder

    processes.join()
    parts = blocks(model)
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    outside = set(model.parameters()).difference(*(block.parameters() for block in parts))
    if learning == set(model.parameters()):
        learning, outside = set(), set()  # nothing stays whole
    mesh = init_device_mesh(next(model.parameters()).device.type, (processes.count(),))
    for block in parts:
        for name, parameter in block.named_parameters() if isinstance(model, Decoder) else ():
            if not parameter.requires_grad and (parameter.ndim > 1 or name.endswith("bias")):
                parameter.data = parameter.data.to(getattr(torch, precision))
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=learning)
    fully_shard(model, mesh=mesh, ignored_params=learning | outside)
    for part in (*parts, model):
        part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
    model.set_reduce_scatter_unused_params(True)  # type: ignore[operator]
    model.set_reshard_after_backward(False, recurse=False)  # type: ignore[operator]
    if isinstance(model, Decoder):
        register_fsdp_forward_method(model, "states")
    return sum(pieces.own(parameter).numel() for parameter in model.parameters())


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model: the members of its largest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    largest = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=())
    return list(largest)


def shared_run(create: Callable[[], Run]) -> Run:
    """The run that the first process creates; for the others a copy of its folder, removed when they end, in which the
    large parts are links.

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
    ignored = shutil.ignore_patterns(".*", "epochs", *READ_WHERE_THEY_ARE)
    shutil.copytree(original, copy, ignore=ignored, dirs_exist_ok=True)
    for name in READ_WHERE_THEY_ARE:
        (copy / name).symlink_to(original / name)
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


@contextlib.contextmanager
def _outside_together(model: nn.Module) -> Iterator[None]:
    """Inside, what lies outside of the blocks is together, once for all passes of a step.

    The others hear of a pass when it enters the embeddings, so nothing may be wanted of them before.
    """
    model.reshard()  # type: ignore[operator]  # what a look brought together may be older than the pieces
    model.unshard()  # type: ignore[operator]
    yield
    model.reshard()  # type: ignore[operator]
