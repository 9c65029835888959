"""From grades of rows to figures with their 95 % intervals.

Shares (every score is 0 or 1) get Wilson's interval; other means and macro-F1 a seeded percentile bootstrap over rows.
Differences between arms are in `compare.py`; nothing here knows an arm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from weft.evaluate.compare import wilson
from weft.graders.line_shape import LineShape
from weft.graders.object_shape import ObjectShape
from weft.records import Grade, Interval, Scorecard
from weft.tasks import Task

RESAMPLES = 2000
_CHUNK = 200
_OTHER = "(other)"


def summarise(task: Task, grades: Sequence[Grade], *, seed: int = 0) -> dict[str, Interval]:
    """Each metric of the grades with its 95 % interval, the main one first; for labels also `macro_f1`.

    A metric is averaged over the rows that have it. Raises ValueError without grades.
    """
    if not grades:
        raise ValueError("no grades to summarise: expected at least one graded row")
    names = {task.metric: None} | {name: None for grade in grades for name in grade.scores}
    columns = {name: np.array([g.scores[name] for g in grades if name in g.scores], dtype=float) for name in names}
    metrics = {name: mean_interval(column, seed=seed) for name, column in columns.items()}
    if task.kind == "classification":
        f1 = macro_f1([g.expected for g in grades], [g.answer for g in grades], seed=seed)
        metrics = {task.metric: metrics.pop(task.metric), "macro_f1": f1, **metrics}
    return metrics


def mean_interval(scores: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean of `scores` (n,) with its interval: Wilson when all are 0 or 1, else percentile bootstrap."""
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson(int(scores.sum()), len(scores))
    means = np.concatenate([weights @ scores / len(scores) for weights in _resamples(len(scores), seed)])
    return _percentiles(float(scores.mean()), means)


def macro_f1(expected: Sequence[str], answers: Sequence[str], *, seed: int = 0) -> Interval:
    """The mean F1 over the labels that occur in `expected`, with a bootstrap interval over rows.

    An answer that is none of these labels is a miss of the expected one and nothing else. In a resample, labels that
    occur in neither expectation nor answers are left out.
    """
    labels = sorted({text.strip() for text in expected})
    true = np.array([[text.strip() == label for label in labels] for text in expected], dtype=float)  # (n, labels)
    given = np.array([[text.strip() == label for label in labels] for text in answers], dtype=float)
    values = np.concatenate([_macro_f1(w @ (true * given), w @ true, w @ given) for w in _resamples(len(true), seed)])
    whole = np.ones((1, len(true)))
    value = _macro_f1(whole @ (true * given), whole @ true, whole @ given)
    return _percentiles(float(value[0]), values)


def confusion(task: Task, grades: Sequence[Grade]) -> dict[str, Any] | None:
    """`labels` and square `counts[expected][answered]` for a classification, else None.

    Answers (or expectations) that are no label of the training answers stand under `(other)`, present when needed.
    """
    if task.kind != "classification":
        return None
    known = set(task.labels)
    pairs = [tuple(t.strip() if t.strip() in known else _OTHER for t in (g.expected, g.answer)) for g in grades]
    labels = [*task.labels, *([_OTHER] if any(_OTHER in pair for pair in pairs) else [])]
    counted = Counter(pairs)
    return {"labels": labels, "counts": [[counted[row, column] for column in labels] for row in labels]}


def field_table(task: Task, cards: Sequence[Scorecard]) -> list[dict[str, Any]] | None:
    """One row per field of a structured answer, `{"field", "role", "arms": {arm: {value, low, high}}}`, else None."""
    if not isinstance(task.shape, ObjectShape | LineShape):
        return None
    return [
        {
            "field": field.name,
            "role": field.role,
            "arms": {c.arm: c.metrics[name].to_json() for c in cards if (name := f"fields.{field.name}") in c.metrics},
        }
        for field in task.shape.fields
    ]


def _resamples(n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n rows is drawn in each resample: arrays (chunk, n) that sum to n along rows."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES // _CHUNK):
        drawn = rng.integers(0, n, size=(_CHUNK, n)) + np.arange(_CHUNK)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=_CHUNK * n).reshape(_CHUNK, n).astype(float)


def _macro_f1(hits: np.ndarray, true: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Macro-F1 of each resample from counts (resamples, labels); F1 = 2·hits / (true + given)."""
    present = true + given > 0
    scores = np.divide(2 * hits, true + given, out=np.zeros_like(hits), where=present)
    return scores.sum(axis=1) / present.sum(axis=1)


def _percentiles(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(value, min(value, float(low)), max(value, float(high)))
