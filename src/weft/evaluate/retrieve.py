"""BM25 search over short texts, through bm25s: the retrieval under few-shot and RAG. Ties go to the earlier text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Words, and single letters or digits too: a question may be one word long.
PATTERN = r"(?u)\b\w+\b"


class Index:
    """Texts that can be searched (Robertson & Zaragoza 2009, the Lucene variant with k1 1.5 and b 0.75)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self.count = len(texts)
        tokens = self._tokens(texts)
        self._bm25: Any = None
        if any(tokens):  # texts of signs alone hold nothing to search by, which bm25s refuses
            self._bm25 = bm25s.BM25()
            self._bm25.index(tokens, show_progress=False)

    def nearest(self, query: str, most: int) -> list[int]:
        """Positions of the best matching texts, best first, at most `most`."""
        tokens = self._tokens([query])[0]
        known = [token for token in tokens if self._bm25 and token in self._bm25.vocab_dict]
        if not known:
            return list(range(min(most, self.count)))
        scores = self._bm25.get_scores(known)
        order = sorted(range(self.count), key=lambda i: (-float(scores[i]), i))
        return order[:most]

    @staticmethod
    def _tokens(texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        tokens = bm25s.tokenize(list(texts), token_pattern=PATTERN, stopwords=[], return_ids=False, show_progress=False)
        return [list(words) for words in tokens]  # type: ignore[union-attr]
