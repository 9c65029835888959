"""The fixed names in a job's folder: what a worker writes there and the supervisor takes from there.

work/JOB/run/adapter/                 what is published
work/JOB/run/epochs/STEP/adapter/     what was learned by the end of an epoch
work/JOB/result/…                     the same two, where the job went on from a tuned model
work/JOB/step_metrics.csv             the result file
work/JOB/attempt-N.log                all that an attempt's process printed
work/scratch/                         where the workers' libraries may put what they like
"""

from __future__ import annotations

ADAPTER = "adapter"
EPOCHS = "epochs"
RUN, RESULT = "run", "result"
TABLE = "step_metrics.csv"
SCRATCH = "scratch"


def published(start: object) -> str:
    """Where the adapters are that count: joined with the one that the job started from, if it did."""
    return RESULT if start else RUN


def epoch(step: int) -> str:
    """The adapter of an epoch, below `published`."""
    return f"{EPOCHS}/{step}/{ADAPTER}"


def log_name(attempt: int) -> str:
    """Where an attempt's output is kept."""
    return f"attempt-{attempt}.log"
