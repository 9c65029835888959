"""What rows share through the prefix cache: a prompt takes what is there and gives what it has read, block by block."""

from __future__ import annotations

from weft.generate.prefixes import BLOCK, PrefixCache, keys
from weft.generate.row import Row
from weft.generate.work import Pass


class Sharing:
    """The prefix cache of one pass, at most `limit` bytes."""

    def __init__(self, owner: Pass, limit: int) -> None:
        self._pass = owner
        self._works = 0 < owner.block_bytes <= limit
        self.cache = PrefixCache(limit, owner.block_bytes or 1)

    def name(self, row: Row) -> None:
        """Give the row its blocks' names. The prompt's last token is always read: its logits are wanted.

        A prompt whose tokens are all to be told is read whole, and has no names.
        """
        if self._works and row.generation.prompt_logprobs is None:
            row.names = keys(row.generation.owner, row.generation.adapter, row.generation.prompt[:-1])

    def begin(self, row: Row, being_made: set[bytes]) -> bool:
        """Take what the cache has of the prompt; false where another row is reading just what would come next."""
        blocks = self.cache.found(row.names)
        if len(blocks) < len(row.names) and row.names[len(blocks)] in being_made:
            return False
        if blocks:
            self._pass.fill(row.seat, blocks)
            row.kept = len(blocks)
            row.read = row.cached = len(blocks) * BLOCK
        return True

    def keep_prompt(self, row: Row) -> None:
        """Give the cache the whole blocks of what was read so far."""
        self._keep(row, row.names, min(row.read // BLOCK, len(row.names)))

    def keep_reply(self, row: Row) -> None:
        """Give it the blocks of prompt and reply: the next prompt of a conversation begins with them."""
        held = row.generation.prompt + tuple(row.drawing.drawn[:-1])
        if self._works and len(held) // BLOCK > row.kept:
            names = keys(row.generation.owner, row.generation.adapter, held)
            self._keep(row, names, len(names))

    def _keep(self, row: Row, names: list[bytes], count: int) -> None:
        missing = [place for place in self.cache.missing(names[:count]) if place >= row.kept]
        if missing:
            self.cache.put(names[:count], {place: self._pass.block(row.seat, place) for place in missing})
        row.kept = max(row.kept, count)
