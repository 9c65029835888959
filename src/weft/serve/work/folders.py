"""What stays in the folder of the workers: of a job that has ended what explains it, of the libraries nothing.

work/JOB/attempt-N.log, step_metrics.csv, run/*.json…        stay
work/JOB/run/{adapter,epochs,checkpoints}/, result/          go when the job has ended: nothing can go on from them
work/scratch/                                                home and temporary folder of the workers' libraries
"""

from __future__ import annotations

import shutil
from pathlib import Path

from weft.serve.work.names import ADAPTER, EPOCHS, RESULT, RUN, SCRATCH

LET_GO = (f"{RUN}/{ADAPTER}", f"{RUN}/{EPOCHS}", f"{RUN}/checkpoints", RESULT)


def tidy(folder: Path) -> None:
    """Of a job that has ended, keep logs and numbers; weights and states are in the store or of no use."""
    for name in LET_GO:
        path = folder / name
        # A worker is not trusted: behind a link in the place of `run` lies what is not its own.
        if path.parent.resolve() == folder.resolve() / path.parent.relative_to(folder):
            shutil.rmtree(path, ignore_errors=True)


def untidy(folder: Path) -> list[str]:
    """The names of the jobs below `folder` that still hold weights or states."""
    return [path.name for path in folder.iterdir() if any((path / name).exists() for name in LET_GO)]


def empty_scratch(folder: Path) -> None:
    """A new, empty scratch folder for the workers of `folder`; none of them may be running."""
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
