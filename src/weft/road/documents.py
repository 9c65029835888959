"""A set of documents for an adaptation: split by document, near-duplicates together, then written as packs of tokens.

To `data/split.py` a document is a conversation that ends in nothing, so equal texts are equal documents; they are
compared by runs of words. Reading is done before, training after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from weft.data import near
from weft.data.split import split
from weft.errors import DataError
from weft.progress import Progress
from weft.records import Conversation, Document, DocumentSet, Finding, Message, Tokens
from weft.road.prepare import FEWEST, MOST_TOLD
from weft.train.documents import Pack, Writer, packed

VALIDATION_TOKENS, TEST_TOKENS = 100_000, 500_000
"""Tokens from which further held-out documents are not looked at: each look at them costs time."""


@dataclass(frozen=True)
class Written:
    """A set of documents as tokens, near-duplicates in one part; test is sealed until the training is over."""

    documents: DocumentSet
    packs: tuple[Pack, ...]
    validation: tuple[Tokens, ...]
    test: tuple[Document, ...]


def written(found: DocumentSet, writer: Writer, progress: Progress, stage: str) -> Written:
    """Split and packed. Raises DataError where fewer than FEWEST documents are there to split."""
    progress.start(f"read {stage}")
    if len(found.documents) < FEWEST:
        told = "\n".join(f"  {_said(finding)}" for finding in _flaws(found)[:20])
        raise DataError(
            f"{found.path}: usable documents: {len(found.documents)} ({found.layout}); at least {FEWEST} are needed, "
            "because whole documents are held out to choose by and to test on. Cut long texts into one file or row for "
            f"each chapter or article.\n{told}".rstrip()
        )
    examples = [
        Conversation((Message("user", document.text), Message("assistant", "")), line=number)
        for number, document in enumerate(found.documents)
    ]
    made = split(examples, validation=0.1, test=0.1, shingles=near.words)
    parts = [[found.documents[example.line] for example in part] for part in (made.train, made.validation, made.test)]
    if not all(parts):
        raise DataError(
            f"{found.path}: its {len(found.documents)} documents are nearly all the same text, which leaves none to "
            "test on. Add documents that differ."
        )
    rows = [row for document in parts[0] for row in writer.rows(document)]
    validation, test = _within(parts[1], writer, VALIDATION_TOKENS), _within(parts[2], writer, TEST_TOKENS)
    tokens = sum(sum(row.learn) for row in rows)
    progress.finish(
        f"{found.layout}; {len(parts[0]):,} documents ({tokens:,} tokens) to train on, "
        f"{len(validation):,} to choose by, {len(test):,} sealed for the test"
    )
    for finding in _flaws(found)[:MOST_TOLD]:
        progress.say(f"    {finding.severity}: {_said(finding)}")
    return Written(
        documents=found,
        packs=packed(rows, writer.longest),
        validation=tuple(row for document in validation for row in writer.rows(document)),
        test=tuple(test),
    )


def without(general: DocumentSet, own: DocumentSet) -> DocumentSet:
    """General text without what is among the documents themselves: no test document may be learned there."""
    known = {near.plain(document.text) for document in own.documents}
    kept = tuple(document for document in general.documents if near.plain(document.text) not in known)
    both = len(general.documents) - len(kept)
    message = f"{both} of its documents are left out: DATA holds them too"
    doubled = (Finding("documents-twice", 0, "warning", message),) if both else ()
    return DocumentSet(general.path, general.layout, kept, (*general.findings, *doubled), general.sha256)


def _flaws(found: DocumentSet) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity != "note"]


def _said(finding: Finding) -> str:
    return f"{finding.place} {finding.message}".strip()


def _within(documents: Sequence[Document], writer: Writer, most: int) -> list[Document]:
    """As many documents as have `most` tokens together, at least one; those whose text hashes lowest, in that order."""
    kept, tokens = [], 0
    for document in sorted(documents, key=lambda document: hashlib.sha256(document.text.encode()).digest()):
        tokens += sum(len(row.ids) for row in writer.rows(document))
        if kept and tokens > most:
            break
        kept.append(document)
    return kept
