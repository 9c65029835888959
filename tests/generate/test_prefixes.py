"""Names of blocks, and what is let go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.generate.prefixes import BLOCK, PrefixCache, keys


def tokens(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


def test_a_name_stands_for_all_tokens_up_to_its_end() -> None:
    plain = keys("o", "a", tokens(3 * BLOCK + 5))
    assert len(plain) == 3 and len(set(plain)) == 3
    changed = tokens(3 * BLOCK)
    changed[BLOCK] += 1
    other = keys("o", "a", changed)
    assert other[0] == plain[0] and other[1] != plain[1] and other[2] != plain[2]


def test_owners_and_adapters_share_nothing() -> None:
    names = [keys(owner, adapter, tokens(BLOCK))[0] for owner in ("o", "p") for adapter in (None, "a", "b")]
    assert len(set(names)) == 6


def test_the_longest_known_beginning_is_found() -> None:
    cache, names = PrefixCache(100, 1), keys("o", None, tokens(4 * BLOCK))
    cache.put(names, {0: "first", 1: "second", 3: "fourth"})
    assert cache.found(names) == ["first", "second"]
    assert cache.missing(names) == [2] and cache.found(keys("o", None, tokens(BLOCK, 1))) == []


def test_what_was_used_longest_ago_goes_first_and_ends_before_starts() -> None:
    cache = PrefixCache(50, 10)
    old, new = keys("o", "old", tokens(3 * BLOCK)), keys("o", "new", tokens(2 * BLOCK))
    cache.put(old, dict.fromkeys(range(3), "x"))
    cache.put(new, dict.fromkeys(range(2), "y"))
    cache.put(keys("o", "third", tokens(BLOCK)), {0: "z"})
    assert len(cache.found(old)) == 2 and len(cache.found(new)) == 2 and cache.size == 50
    cache.found(new)
    cache.put(keys("o", "fourth", tokens(BLOCK)), {0: "z"})
    assert len(cache.found(old)) == 2  # the third was used before it


def test_a_prompt_longer_than_the_cache_keeps_its_beginning() -> None:
    cache, names = PrefixCache(2, 1), keys("o", None, tokens(5 * BLOCK))
    assert cache.missing(names) == [0, 1]


def test_without_bytes_nothing_is_kept() -> None:
    cache, names = PrefixCache(0, 1), keys("o", None, tokens(BLOCK))
    assert not cache.works and cache.missing(names) == []
    cache.put(names, {0: "x"})
    assert len(cache) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), max_size=40))
def test_every_kept_block_can_be_reached_and_the_bound_holds(puts: list[tuple[str, int]]) -> None:
    cache = PrefixCache(7, 1)
    for adapter, blocks in puts:
        names = keys("o", adapter, tokens(blocks * BLOCK))
        cache.found(names)
        cache.put(names, dict.fromkeys(cache.missing(names), adapter))
        assert len(cache) <= 7
        assert set(cache.found(names)) <= {adapter}
    reached = sum(len(cache.found(keys("o", adapter, tokens(6 * BLOCK)))) for adapter in "abc")
    assert reached == len(cache)
