"""BPE-dropout: the words of a text in other pieces of the vocabulary, as if some merges were not known.

Provilkov et al. 2020, arXiv:1910.13267, algorithm 1. The tokenizers library knows it too, but draws from a generator
that cannot be seeded, so that no training could be repeated. Here what is drawn for a word depends on a key and on the
text up to that word: texts that begin alike are cut alike as far as they do, and what a batch shares stays shared.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from typing import Any

from tokenizers import Tokenizer

from weft.errors import UsageError


class BpeDropout:
    """Cuts texts with the probability `share` for each merge to be left out, each time it could be made.

    Raises UsageError where the tokenizer does not merge pairs, or marks pieces by their place in a word.
    """

    def __init__(self, tokenizer: Tokenizer, share: float) -> None:
        model = json.loads(tokenizer.to_str())["model"]
        if reason := _unfit(model):
            raise UsageError(f"--bpe-dropout {share:g}: the base's tokenizer {reason}. Leave it out.")
        self.share = share
        self._ids: dict[str, int] = model["vocab"]
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    @staticmethod
    def fits(tokenizer: Tokenizer) -> bool:
        """Whether texts can be cut with this tokenizer."""
        return not _unfit(json.loads(tokenizer.to_str())["model"])

    def cut(self, plain: Tokenizer, text: str, key: str) -> list[int]:
        """`text` as ids, cut as `key` says. `plain`: the tokenizer without its added tokens, as for such a text."""
        if plain.normalizer is not None:
            text = plain.normalizer.normalize_str(text)
        words = [(text, (0, 0))] if plain.pre_tokenizer is None else plain.pre_tokenizer.pre_tokenize_str(text)
        before = hashlib.blake2b(key.encode(), digest_size=8)
        ids: list[int] = []
        for word, _ in words:
            before.update(word.encode("utf-8", "surrogatepass"))
            ids += self._pieces(plain, word, random.Random(before.digest()))
        return ids

    def _pieces(self, plain: Tokenizer, word: str, draw: random.Random) -> list[int]:
        if not all(letter in self._ids for letter in word):  # bytes or an unknown token stand for some: whole, then
            return [token.id for token in plain.model.tokenize(word)]
        parts = list(word)
        while True:
            best, place = None, 0
            for here, pair in enumerate(itertools.pairwise(parts)):
                rank = self._ranks.get(pair)
                # Only what would come first is drawn for: whether the others may be made changes nothing.
                if rank is not None and (best is None or rank < best) and draw.random() >= self.share:
                    best, place = rank, here
            if best is None:
                return [self._ids[part] for part in parts]
            parts[place : place + 2] = ["".join(parts[place : place + 2])]


def _unfit(model: dict[str, Any]) -> str:
    """Why words cannot be cut otherwise, or nothing."""
    if model.get("type") != "BPE":
        return f"is a {model.get('type')} model, which merges no pairs"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "marks pieces by their place in a word"
    return ""
