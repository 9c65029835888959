"""Packs of documents with a share of packs of general text between them: a function of seed and epoch alone.

Replay of earlier text limits forgetting (Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train
Large Language Models", arXiv:2403.08763). An epoch holds every pack of the documents once, and so many places for
general packs that these are `share` of all; the places go through all general packs before one comes again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.train.documents import Pack


@dataclass(frozen=True)
class Mix:
    """What an epoch is made of; its length is the number of packs in it."""

    packs: tuple[Pack, ...]
    replay: tuple[Pack, ...] = ()
    share: float = 0.0
    seed: int = 0

    @property
    def replayed(self) -> int:
        """Places for general packs in an epoch."""
        return max(1, round(self.share / (1 - self.share) * len(self.packs))) if self.replay else 0

    def __len__(self) -> int:
        return len(self.packs) + self.replayed

    def lengths(self) -> list[int]:
        """Tokens of each place; which general pack stands in its place differs by epoch, so they count as full."""
        own = [_tokens(pack) for pack in self.packs]
        return own + [max(map(_tokens, self.replay), default=0)] * self.replayed

    def pack(self, place: int, epoch: int) -> Pack:
        """The pack in this place of the epoch."""
        if place < len(self.packs):
            return self.packs[place]
        turn, at = divmod(epoch * self.replayed + place - len(self.packs), len(self.replay))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.replay))
        return self.replay[order[at]]


def _tokens(pack: Pack) -> int:
    return sum(len(row.ids) for row in pack)
