"""What the roundings of a training depend on beside data, base and settings, which a run is compared by: how many
threads and processes compute, on which device, with which numbers.

The same gives the same bytes. A checkpoint keeps it, so that a training that goes on under another one says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from weft.models.load import Base
from weft.train import processes
from weft.train.crew import hands
from weft.train.tuning_config import TuningConfig

_IN_WORDS = {
    "threads": "threads",
    "hands": "processes that share a step",
    "processes": "processes of torchrun",
    "device": "device",
    "precision": "precision",
}


def conditions(base: Base, config: TuningConfig) -> dict[str, str]:
    """Those of this process and, under a torchrun, of the others. `base` must be learning, `config` settled."""
    threads, devices = zip(*processes.everyones((torch.get_num_threads(), _name(base.device))), strict=True)
    alone = processes.count() == 1
    return {
        "threads": " + ".join(map(str, threads)),
        "hands": str(hands(base.model, config.batch_size) if alone else 1),
        "processes": str(processes.count()),
        "device": " + ".join(devices),
        "precision": config.precision,
    }


def changed(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words, or nothing; what an earlier version of weft did not take down differs from nothing."""
    differing = [name for name in now if was.get(name, now[name]) != now[name]]
    return ", ".join(f"{_IN_WORDS[name]} {now[name]} instead of {was[name]}" for name in differing)


def _name(device: torch.device) -> str:
    """The kind of device, as far as its products depend on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
