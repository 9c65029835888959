"""Tensors of which each process of a torchrun holds a piece (torch's `DTensor`): brought together, and taken apart.

One that is not sharded is its own piece and its own whole, so that whoever asks need not know. Where pieces are brought
together all processes must ask, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from weft.train import processes


def is_piece(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of it."""
    return hasattr(tensor, "full_tensor")  # asked so because without a torchrun nothing has imported DTensor


def own(tensor: Tensor) -> Tensor:
    """What this process holds of it; the same memory."""
    return tensor.detach().to_local() if is_piece(tensor) else tensor  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """All of it, in each process."""
    if not is_piece(tensor):
        return tensor
    with processes.explained():
        return tensor.detach().full_tensor()  # type: ignore[operator]


def apart(given: Tensor, like: Tensor) -> Tensor:
    """What each process has whole, on the device of `like` and sharded as that is. Nothing is sent."""
    given = given.to(like.device)
    if not is_piece(like):
        return given
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(given, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A model's state with whole tensors, in the processor's memory of the first process; for the others nothing.

    One tensor at a time is brought together, so only the first process needs room for all of them.
    """
    named = model.state_dict(keep_vars=True)
    first = processes.rank() == 0
    met: dict[int, Tensor] = {}
    for tensor in named.values():
        if id(tensor) not in met:  # tied weights are one tensor, here and in what comes out
            together = whole(tensor.detach())
            met[id(tensor)] = together.cpu() if first else together.new_empty(0)
    return {name: met[id(tensor)] for name, tensor in named.items()} if first else {}


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write float32 `tensors` as `safetensors.torch.save_file` does, to the byte, while the others `lend` theirs.

    One tensor at a time is brought together, where the library wants all of them in memory.
    """
    header, end = {}, 0
    for name in sorted(tensors):
        start, end = end, end + 4 * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name in sorted(tensors):
            file.write(whole(tensors[name]).detach().cpu().contiguous().numpy().data)


def lend(tensors: Mapping[str, Tensor]) -> None:
    """Give what this process holds of them to the one that writes."""
    for name in sorted(tensors):
        whole(tensors[name])
