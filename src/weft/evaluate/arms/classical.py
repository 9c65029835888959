"""TF-IDF and logistic regression through scikit-learn: what a label task gets for no language model at all.

The strength of the regularisation is chosen on validation, like every other choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.records import Conversation

STRENGTHS = (1.0, 10.0, 100.0)


def fit(train: Sequence[Conversation], validation: Sequence[Conversation]) -> tuple[Any, dict[str, Any]]:
    """A fitted scikit-learn pipeline (text → label) and what was chosen."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, make_pipeline

    texts, answers = [example.question for example in train], [example.answer for example in train]

    def pipeline(strength: float) -> Any:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        # Questions such as "?" or "7" hold no word of two letters, which scikit-learn refuses.
        kinds = [("words", words)] if any(words.build_analyzer()(text) for text in texts) else []
        features = FeatureUnion([*kinds, ("letters", letters)])
        return make_pipeline(features, LogisticRegression(C=strength, max_iter=300))

    if not validation:
        return pipeline(STRENGTHS[1]).fit(texts, answers), {"C": STRENGTHS[1]}
    best: tuple[float, float, Any] | None = None
    for strength in STRENGTHS:
        model = pipeline(strength).fit(texts, answers)
        predicted = model.predict([example.question for example in validation])
        right = sum(guess == example.answer for guess, example in zip(predicted, validation, strict=True))
        if best is None or right > best[0]:
            best = (right, strength, model)
    assert best is not None
    return best[2], {"C": best[1], "validation_right": int(best[0]), "validation_rows": len(validation)}
