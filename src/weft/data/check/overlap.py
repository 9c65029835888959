"""Whether a test file holds what was trained on: the flaw that makes every later figure too good."""

from __future__ import annotations

from collections.abc import Sequence

from weft.data import near
from weft.data.check.context import count, first_line, lines, percent
from weft.records import Conversation, Finding


def overlap(train: Sequence[Conversation], test: Sequence[Conversation]) -> tuple[Finding, ...]:
    """Findings on rows of `test` whose question is in `train`, word for word or almost; lines are those of `test`."""
    if not train or not test:
        return ()
    texts = [near.asked(example) for example in (*train, *test)]
    trained = {near.digest(text) for text in texts[: len(train)]}
    same = [row for row, text in zip(test, texts[len(train) :], strict=True) if near.digest(text) in trained]
    groups = near.clusters(texts)
    seen = set(groups[: len(train)])
    exact = {id(row) for row in same}
    close = [
        row for row, group in zip(test, groups[len(train) :], strict=True) if group in seen and id(row) not in exact
    ]
    findings = []
    for rule, rows, how in (("overlap", same, "also"), ("near-overlap", close, "almost word for word")):
        if rows:
            verb = "is" if len(rows) == 1 else "are"
            findings.append(
                Finding(
                    rule,
                    first_line(rows),
                    "warning",
                    f"{count(len(rows), 'question')} of the test {verb} {how} in the training file ({lines(rows)})",
                    f"up to {percent(len(rows), len(test))} of the test measures memory instead of skill",
                    "Remove them from one of the two files, or let weft split one file.",
                )
            )
    return tuple(findings)
