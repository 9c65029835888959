"""How much arithmetic a training step is, from shapes alone.

Counted is what `decoder.py`, `kernels.py` and `forest/` multiply, and compared with torch's own count in
tests/models/test_plan.py; models that transformers runs are taken for ones of the Llama family. No library is needed.
"""

from __future__ import annotations

import math

from weft.models.shape import ATTENTION, Learning, Pass, Shape


def flop(shape: Shape, learning: Learning, each: Pass, *, logits: int) -> int:
    """Floating-point operations of one forward and backward pass, two for each product of a matrix product.

    `logits`: numbers of a chunk of logits. A head that learns has them anew on the way back where there are several.
    """
    linear, scores = 0, 0
    for index in range(shape.layers):
        last = index == shape.layers - 1
        asking = each.states if last else each.tokens
        cells = each.kept_cells if last else each.cells
        here = frozenset(shape.linears) if learning.full else learning.adapted[index]
        forward = 0
        for name, (inputs, outputs) in shape.linears.items():
            rows = each.tokens if name in ATTENTION[1:3] else asking
            product = 2 * rows * inputs * outputs
            lowest_inputs = index == learning.lowest and name in ATTENTION[:3] and not learning.full
            back = index >= learning.lowest and not lowest_inputs
            forward += product
            linear += product * (1 + back + (1 if learning.full else 0))
            if name in here and not learning.full:
                rank = 2 * rows * learning.rank
                linear += rank * (2 * (inputs + outputs) + outputs + (inputs if back else 0))
                forward += rank * (inputs + outputs)
        scores += 4 * cells * shape.queries + (10 * cells * shape.queries if index >= learning.lowest else 0)
        if learning.recompute and index >= learning.lowest:
            linear += forward
            scores += 4 * cells * shape.queries
        if learning.dora:
            linear += sum(2 * learning.rank * math.prod(shape.linears[name]) for name in here)
    head = 2 * each.states * shape.vocabulary * shape.width
    again = each.states > max(1, logits // shape.vocabulary)
    return linear + scores + head * (2 + (1 + again if learning.full else 0))
