"""Documents to rows of tokens, and rows to packs, with exact boundaries.

    document     a b c d e f g h i E               E: the base's end of a document
    rows       B a b c d │ d e f g h │ h i E       B: its beginning mark
    learned      ✓ ✓ ✓ ✓     ✓ ✓ ✓ ✓     ✓ ✓

Every token of a document and its end is learned exactly once: the first of a document from the beginning mark, the
first of a continued row from the token before it. A row sees nothing of other rows, also in one forward pass: rows are
separate sequences there, whose positions begin at 0. Packs are filled best fit first (Ding et al. 2024, "Fewer
Truncations Improve Language Modeling", arXiv:2404.10830), so that each holds about as many tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from weft.errors import ModelError, UsageError
from weft.models.encode import Encoder
from weft.models.end_token import never_learned
from weft.models.load import Base
from weft.records import Document, Tokens

KNOWN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>")
"""How the large families call the end of a document; the end token of their chat models is another."""

Pack = tuple[Tokens, ...]


@dataclass(frozen=True)
class Writer:
    """Writes documents as rows of at most `longest` tokens for one base."""

    encoder: Encoder
    begin: int
    end: int
    longest: int

    @classmethod
    def of(cls, base: Base, longest: int, document_end: str = "auto") -> Writer:
        """`longest`: tokens of a row, its context among them; `document_end`: the name of a control token.

        Where the base has no beginning mark, a document begins behind the end of another, as it did in pretraining.
        Raises UsageError for an unknown token, ModelError where the tokenizer names no end at all.
        """
        tokenizer = base.chat.tokenizer
        encoder = Encoder(tokenizer)
        begins, ends = str(tokenizer.bos_token or ""), str(tokenizer.eos_token or "")
        known = ", ".join(list(encoder.added)[:12]) or "none"
        if document_end != "auto" and document_end not in encoder.added:
            raise UsageError(f"--document-end {document_end!r}: no control token of the tokenizer. It has: {known}.")
        wanted = (*KNOWN_ENDS, ends, begins) if document_end == "auto" else (document_end,)
        there = [encoder.added[name] for name in wanted if name in encoder.added]
        if not there:
            raise ModelError(
                f"{base.name}: no token that ends a document is known. Name one with --document-end: {known}."
            )
        # Some bases end documents in their beginning mark and never saw the end that their tokenizer names.
        end = next((token for token in there if not never_learned(base.model, token)), there[0])
        return cls(encoder, encoder.added.get(begins, end), end, longest)

    @property
    def marks(self) -> str:
        """The beginning and the end of a document, for people."""
        return f"{self.encoder.token(self.begin)} … {self.encoder.token(self.end)}"

    def rows(self, document: Document) -> list[Tokens]:
        """The rows of one document, in order."""
        ids = [self.begin, *self.encoder.text(document.text, continued=False), self.end]
        step = self.longest - 1
        pieces = [tuple(ids[at : at + self.longest]) for at in range(0, len(ids) - 1, step)]
        return [Tokens(piece, (False,) + (True,) * (len(piece) - 1)) for piece in pieces]


def packed(rows: Sequence[Tokens], room: int) -> tuple[Pack, ...]:
    """Each row in one pack of at most `room` tokens: the longest first, each into the fullest pack that has room."""
    packs: list[list[Tokens]] = []
    free: list[tuple[int, int]] = []
    """(room left, number of the pack), sorted."""
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.ids)):
        place = bisect.bisect_left(free, (len(row.ids), -1))
        if place < len(free):
            left, number = free.pop(place)
        else:
            left, number = room, len(packs)
            packs.append([])
        packs[number].append(row)
        bisect.insort(free, (left - len(row.ids), number))
    return tuple(tuple(pack) for pack in packs)
