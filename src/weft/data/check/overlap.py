"""Whether a test file holds what was trained on: the flaw that makes every later figure too good."""

from __future__ import annotations

from collections.abc import Sequence

from weft.data import near
from weft.data.check.context import count, first_line, lines, percent
from weft.records import Conversation, Finding


class _Both:
    """Two files together: which rows of each ask what stands in the other, word for word or almost."""

    def __init__(self, train: Sequence[Conversation], test: Sequence[Conversation]) -> None:
        texts = [near.asked(example) for example in (*train, *test)]
        marks = list(zip(map(near.digest, texts), near.clusters(texts), strict=True))
        self.train = list(zip(train, marks[: len(train)], strict=True))
        self.test = list(zip(test, marks[len(train) :], strict=True))

    def shared(self, *, of_train: bool) -> tuple[list[Conversation], list[Conversation]]:
        """Rows of one file whose question the other has too, and those it has almost."""
        own, other = (self.train, self.test) if of_train else (self.test, self.train)
        digests, groups = {digest for _, (digest, _) in other}, {group for _, (_, group) in other}
        same = [row for row, (digest, _) in own if digest in digests]
        close = [row for row, (digest, group) in own if digest not in digests and group in groups]
        return same, close

    def measured_by(self, rows: Sequence[Conversation]) -> int:
        """Test rows that ask what the training rows `rows` ask, or almost."""
        chosen = {id(row) for row in rows}
        groups = {group for row, (_, group) in self.train if id(row) in chosen}
        return sum(group in groups for _, (_, group) in self.test)


def overlap(train: Sequence[Conversation], test: Sequence[Conversation]) -> tuple[Finding, ...]:
    """Findings on rows of `test` whose question is in `train`, word for word or almost; lines are those of `test`."""
    if not train or not test:
        return ()
    same, close = _Both(train, test).shared(of_train=False)
    findings = []
    for rule, rows, how in (("overlap", same, "also"), ("near-overlap", close, "almost word for word")):
        if rows:
            verb = "is" if len(rows) == 1 else "are"
            what = f"{count(len(rows), 'question')} of the test {verb} {how} in the training file"
            findings.append(_finding(rule, rows, what, percent(len(rows), len(test)), "the test"))
    return tuple(findings)


def held_out_too(train: Sequence[Conversation], validation: Sequence[Conversation]) -> tuple[Finding, ...]:
    """The same flaw of a validation file, told of the rows of `train`; lines are those of `train`."""
    if not train or not validation:
        return ()
    both = _Both(train, validation)
    same, close = both.shared(of_train=True)
    findings = []
    for rule, rows, how in (("overlap", same, "also"), ("near-overlap", close, "almost word for word")):
        if rows:
            what = f"{count(len(rows), 'question is', 'questions are')} {how} in the validation file"
            share = percent(both.measured_by(rows), len(validation))
            findings.append(_finding(rule, rows, what, share, "the validation file"))
    return tuple(findings)


def _finding(rule: str, rows: Sequence[Conversation], what: str, share: str, measure: str) -> Finding:
    return Finding(
        rule,
        first_line(rows),
        "warning",
        f"{what} ({lines(rows)})",
        f"up to {share} of {measure} measures memory instead of skill",
        "Remove them from one of the two files, or let weft split one file.",
    )
