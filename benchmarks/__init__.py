"""Benchmarks, one file per question: `road` (the whole command on real data), `engine` (replies beside transformers).

Run them with `scripts/bench NAME`. How each is measured is said in docs/benchmarks.md.
"""
