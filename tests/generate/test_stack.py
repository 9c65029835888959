"""The stack of adapters: every row meets its own adapter's numbers, whatever the layers of a product are like."""

from __future__ import annotations

import pytest
import torch

from weft.generate.stack import Stack
from weft.generate.updates import Part, Product, ServedAdapter, Update

KEY = (0, "product")


def adapter(name: str, bounds: tuple[tuple[int, int], ...], adapted: tuple[int, ...], rank: int) -> ServedAdapter:
    generator = torch.Generator().manual_seed(len(name) + 7 * rank)
    parts = {
        place: Part(
            torch.randn(5, rank, generator=generator),
            torch.randn(rank, bounds[place][1] - bounds[place][0], generator=generator),
            None,
        )
        for place in adapted
    }
    return ServedAdapter(name, rank, False, {KEY: Update(torch.empty(0), torch.empty(0), parts)})


@pytest.mark.parametrize("widths", [(12,), (4, 4), (8, 4, 4), (9, 6, 6), (7, 3)], ids=str)
def test_every_layer_of_a_product_gets_its_own_update(widths: tuple[int, ...]) -> None:
    ends = [sum(widths[: place + 1]) for place in range(len(widths))]
    bounds = tuple((end - width, end) for end, width in zip(ends, widths, strict=True))
    product = Product(torch.empty(5, ends[-1]), None, bounds)
    every = tuple(range(len(widths)))
    one, two, last = (
        adapter("a", bounds, every, 3),
        adapter("bb", bounds, every, 2),
        adapter("c", bounds, every[-1:], 4),
    )
    owners = [two, one, None, last, two, two, one]
    stack = Stack({KEY: product}, torch.float32, torch.device("cpu"))
    x, y = torch.randn(9, 5), torch.randn(9, ends[-1])
    expected = y.clone()
    for row, owner in enumerate(owners):
        for place, part in {} if owner is None else owner.updates[KEY].parts.items():
            expected[row, slice(*bounds[place])] += x[row] @ part.down @ part.up
    stack.add(KEY, x, y, stack.deal(owners))
    assert torch.allclose(y, expected, atol=1e-5)
