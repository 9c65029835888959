"""The share of general text is kept, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections import Counter

from weft.records import Tokens
from weft.train.mix import Mix


def _packs(count: int, start: int) -> tuple[tuple[Tokens, ...], ...]:
    return tuple((Tokens((n, n), (False, True)),) for n in range(start, start + count))


def _names(mix: Mix, epoch: int) -> list[int]:
    return [mix.pack(place, epoch)[0].ids[0] for place in range(len(mix))]


def test_an_epoch_holds_each_document_pack_once_and_the_share_of_general_ones() -> None:
    mix = Mix(_packs(90, 0), _packs(35, 1000), share=0.1)
    assert (len(mix), mix.replayed, mix.lengths()) == (100, 10, [2] * 100)
    assert _names(mix, 3)[:90] == list(range(90))
    general = [name for epoch in range(7) for name in _names(mix, epoch)[90:]]
    # 70 places are two rounds of 35: everything comes twice, and once before anything comes again.
    assert len(set(general[:35])) == 35 and set(Counter(general).values()) == {2}
    assert general[:35] != general[35:]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    made = [Mix(_packs(9, 0), _packs(20, 50), share=0.5, seed=seed) for seed in (1, 1, 2)]
    assert _names(made[0], 4) == _names(made[1], 4) != _names(made[2], 4)


def test_without_general_text_there_are_the_documents_alone() -> None:
    mix = Mix(_packs(5, 0), share=0.1)
    assert (len(mix), mix.replayed, _names(mix, 1)) == (5, 0, [0, 1, 2, 3, 4])


def test_few_general_packs_are_repeated_within_an_epoch() -> None:
    mix = Mix(_packs(4, 0), _packs(1, 9), share=0.5)
    assert _names(mix, 0) == [0, 1, 2, 3, 9, 9, 9, 9]
