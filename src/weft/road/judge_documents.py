"""What sealed documents say about a domain adaptation: perplexity before and after, of the domain and of general text.

The tuned model is loaded from the files that a user gets. Every token of a document and its end count, in rows as in
training: a continued row sees nothing of the rows before it but one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from weft.evaluate.perplexity import perplexity_change
from weft.forest.logprobs import learned_logprobs
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Document
from weft.road.tune import load_tuned, load_untuned
from weft.runs import Run
from weft.train.batches import MICRO_TOKENS, micro_batches
from weft.train.documents import Writer

CARD = "scorecards/documents.test.json"


def judge_documents(
    run: Run, test: Mapping[str, Sequence[Document]], writer: Writer, progress: Progress
) -> dict[str, Any]:
    """For each set of `test` its PerplexityChange as JSON; measured once, then read back from the scorecard."""
    if run.has(CARD):
        return run.read_json(CARD)["sets"]
    every = [document for documents in test.values() for document in documents]
    progress.start("base and tuned on test", 2 * len(every), "documents")
    before = document_nats(load_untuned(run), every, writer, progress)
    after = document_nats(load_tuned(run), every, writer, progress)
    tokens = np.array([sum(sum(row.learn) for row in writer.rows(document)) for document in every])
    sets, start = {}, 0
    for name, documents in test.items():
        here = slice(start, start := start + len(documents))
        sets[name] = perplexity_change(before[here], after[here], tokens[here]).to_json()
    for arm in ("base", "tuned"):  # counted before anybody sees the figures
        run.event("looked", arm=arm, split="test", rows=len(every))
    rows = [
        {"file": document.file, "line": document.line, "tokens": int(count), "before": old, "after": new}
        for document, count, old, new in zip(every, tokens, before.tolist(), after.tolist(), strict=True)
    ]
    run.write_json(CARD, {"sets": sets, "nats": rows})
    progress.finish(
        f"perplexity {sets['documents']['before']['value']:.2f} to {sets['documents']['after']['value']:.2f}"
    )
    return sets


def document_nats(model: Base, documents: Sequence[Document], writer: Writer, progress: Progress) -> np.ndarray:
    """Negative log-probability of each document with its end, in nats: (D,) float64."""
    rows = [(number, row) for number, document in enumerate(documents) for row in writer.rows(document)]
    nats, left = np.zeros(len(documents)), np.bincount([number for number, _ in rows], minlength=len(documents))
    for part in micro_batches(model.model, rows, MICRO_TOKENS, lambda entry: (entry[1],)):
        with torch.no_grad():
            given = learned_logprobs(model.model, [row for _, row in part])
        each = given.double().split([sum(row.learn) for _, row in part])
        for (number, _), logprobs in zip(part, each, strict=True):
            nats[number] -= float(logprobs.sum())
            left[number] -= 1
            progress.advance(int(left[number] == 0))
    return nats
