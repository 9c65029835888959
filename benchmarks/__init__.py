"""Benchmarks, one file per question: `road` (the whole command), `engine` (replies), `train` (a training step).

Run them with `scripts/bench NAME`. How each is measured is said in docs/benchmarks.md.
"""
