"""Which models are too small for threads to share their products.

Two threads took 0.385 s for a step of weft-nano's training that one took in 0.19 s, and 20 ms for a step of 16 replies
that one took in 13 ms (22 November 2026). Other cores work for such models in other processes (`train/crew.py`).
"""

SMALL = 30_000_000
"""Most parameters of such a model."""
