"""Where contestants meet: a working folder, two interpreters, and what is made once for all of them (grounds.py)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.cell import Cell
from benchmarks.peers.pipe import Worker
from benchmarks.peers.settings import Setting
from weft.errors import UsageError


@dataclass
class Stage:
    """What the processes of one benchmark share: a working folder, both interpreters, what `grounds` has made."""

    folder: Path
    peers_python: Path
    compiling: bool = True
    """Whether the peers are offered torch.compile."""
    apart: bool = False
    """Whether contestants are held in memory one at a time."""
    _grounds: Worker | None = None
    _made: dict[str, Any] = field(default_factory=dict)
    _started: int = 0

    def ask(self, **command: Any) -> dict[str, Any]:
        """An answer of grounds.py."""
        self._grounds = self._grounds or self.worker("grounds", 1)
        return self._grounds.ask(**command)

    def once(self, **command: Any) -> dict[str, Any]:
        """The same, asked only the first time."""
        key = repr(sorted(command.items()))
        if key not in self._made:
            self._made[key] = self.ask(**command)
        return self._made[key]

    def peak(self, cell: Cell) -> float:
        """Floating-point operations per second of a large matrix product: the best seen so far in this run."""
        key = f"peak {cell.precision} {cell.threads}"
        now = self.ask(do="peak", precision=cell.precision, threads=cell.threads)["flops"]
        self._made[key] = max(now, self._made.get(key, 0.0))
        return self._made[key]

    def close(self) -> None:
        if self._grounds:
            self._grounds.close()

    def worker(self, kind: str, threads: int, setting: Setting | None = None) -> Worker:
        """A started process; weft's own interpreter for what needs weft."""
        self._started += 1
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "WEFT_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TMPDIR": str(self.folder),
            **(setting.environment if setting else {}),
        }
        python = str(self.peers_python) if kind in ("transformers", "trl") else sys.executable
        command = [python, "-m", "benchmarks.peers.worker", kind]
        return Worker(kind, command, environment, self.folder / f"{self._started}-{kind}.log")

    def prepare(
        self,
        worker: Worker,
        cell: Cell,
        setting: Setting,
        gradient: Path | None,
        limit: float | None = None,
        batch: int = 0,
    ) -> None:
        """Make a contestant ready for its first step, which takes this batch; the others follow in turn."""
        base = self.folder / f"base-{cell.model}"
        self.once(do="folder", model=cell.model, folder=str(base))
        adapter = self.folder / f"adapter-{cell.model}-{cell.adapt}"
        if cell.adapt != "full":
            self.once(do="adapter", folder=str(base), adapter=str(adapter), adapt=cell.adapt)
        worker.ask(
            limit,
            do="prepare",
            cell=cell.to_json(),
            setting=setting.to_json(),
            folder=str(base),
            adapter=str(adapter),
            gradient=str(gradient) if gradient else None,
            batch=batch,
        )

    def versions(self) -> dict[str, str]:
        """Of what the peers run on. Raises UsageError where their environment is missing."""
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        names = ("trl", "transformers", "peft", "torch")
        try:
            done = subprocess.run([self.peers_python, "-c", code, *names], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise UsageError(
                "the peers' environment (.venv-peers) is missing or incomplete. Start with scripts/bench train, "
                "which makes it from benchmarks/peers/requirements.txt."
            ) from None
        return dict(zip(names, done.stdout.split(), strict=True))
