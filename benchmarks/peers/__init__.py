"""Training steps side by side: each contestant is a process that answers over a pipe, in its own environment.

    cell · settings · floor      what is measured, what a peer may be set to, the least arithmetic (no library at all)
    pipe · tune · match          the benchmark's side: start, ask, stop; find a peer's best setting; one row, measured
    worker                       the contestant's side: reads commands, holds the clock
    ours · trainers · grounds    weft; transformers and TRL; what all of them stand on

`worker` and `trainers` also run where weft is not installed (.venv-peers), so they import nothing of it.
"""
