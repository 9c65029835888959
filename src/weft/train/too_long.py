"""What is left out because it is longer than what is learned or looked at: said with the lines, never cut or dropped
in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.runs import Run
from weft.train.warn import warn

MOST_TOLD = 10
"""Lines that a sentence names; records hold all of them."""


def left_out(part: str, lines: Sequence[int], most: int) -> str:
    """A sentence with how many of a `part` have more than `most` tokens, and the `lines` of the first of them."""
    return f"Left out of the {part} part as longer than {most:,} tokens: {len(lines):,} ({in_words(lines)})."


def in_words(lines: Sequence[int]) -> str:
    """`line 3`, `lines 3, 8`; the first of many."""
    told = ", ".join(map(str, lines[:MOST_TOLD])) + (" …" if len(lines) > MOST_TOLD else "")
    return f"{'lines' if len(lines) > 1 else 'line'} {told}"


def tell_left_out(
    run: Run, say: Callable[[str], None], most: int, training: Sequence[int], validation: Sequence[int]
) -> None:
    """Warn of the lines in either part; a training that goes on says it again, its events hold it once."""
    for part, lines in (("training", training), ("validation", validation)):
        if not lines:
            continue
        told = left_out(part, lines, most)
        if run.has("checkpoints"):
            say(f"    {told}")
        else:
            warn(run, say, told)
