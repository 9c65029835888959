"""From a file to what the other stages work on: examples, findings, split, task. Cheap, so repeated on every visit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from weft.data.check import check
from weft.data.check.place import NO_PLACE
from weft.data.read import read
from weft.data.split import split
from weft.errors import DataError, ModelError, UsageError
from weft.graders.shape import are_labels
from weft.models.chat import Chat
from weft.progress import Progress
from weft.records import Conversation, Dataset, Finding, Split
from weft.road.settings import DataConfig
from weft.tasks import Task, infer
from weft.train.too_long import in_words

MOST_TOLD = 8
FEWEST = 10
"""Examples below which there is nothing to split; the fine-tuning API asks for as many."""


@dataclass(frozen=True)
class Prepared:
    """The file as understood, and its sealed parts."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    split: Split
    task: Task

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "train": len(self.split.train),
            "validation": len(self.split.validation),
            "test": len(self.split.test),
        }


def prepare(
    data: Path, config: DataConfig, chat: Chat, context: int, progress: Progress, *, compared: bool = True
) -> Prepared:
    """Read, check, split, infer the task. `compared`: whether arms are to answer the examples and be graded.

    Raises DataError, naming what is wrong, where fewer than FEWEST usable examples remain; UsageError where answers
    cannot be compared; ModelError where the base cannot be shown an example.
    """
    progress.start("read and check")
    dataset = read(data, input=config.input, output=config.output, system=config.system)
    if compared:
        _require_texts(dataset)
    findings = check(
        dataset,
        count_tokens=lambda example: len(chat.example(example.messages, example.offered).ids),
        context_tokens=context,
    )
    if refused := [finding for finding in findings if finding.rule == NO_PLACE]:
        told = "\n".join(f"  {finding.message}." for finding in refused)
        raise ModelError(f"{data}: the base {config.base} cannot learn this file:\n{told}\n{refused[0].cure}")
    examples = [example for example in dataset.examples if example.answer.strip() and example.question.strip()]
    if len(examples) < FEWEST:
        errors = [finding for finding in findings if finding.severity == "error"]
        told = "\n".join(f"  {f'line {f.line}: ' if f.line else ''}{f.message}" for f in errors[:20])
        raise DataError(
            f"{data}: {len(examples)} of {dataset.rows} rows are usable; at least {FEWEST} are needed, "
            f"and 50 or more to measure anything. Add examples, or mend these:\n{told}".rstrip(":\n")
        )
    answers = [example.answer for example in examples]
    labels = answers if config.task == "classification" or are_labels(answers) else None
    parts = split(examples, labels=labels)
    parts = Split(parts.train, parts.validation, _sealed(parts.test, config.test_rows))
    task = infer(parts.train, kind=config.task, grader=config.grader)
    progress.finish(
        f"{dataset.rows:,} rows as {dataset.layout}; {len(parts.train):,} to train on, "
        f"{len(parts.validation):,} to choose by, {len(parts.test):,} sealed for the test"
    )
    for finding in _most_serious(findings):
        place = f"line {finding.line}: " if finding.line else ""
        progress.say(f"    {finding.severity}: {place}{finding.message}")
    return Prepared(dataset, findings, parts, task)


def _require_texts(dataset: Dataset) -> None:
    """Raises UsageError where answers may be calls of tools: the arms answer in words, and graders read words."""
    if lines := [example.line for example in dataset.examples if example.tools]:
        raise UsageError(
            f"{dataset.path}: {len(lines)} of its {dataset.rows} rows have tools ({in_words(lines)}), and `weft run` "
            f"and `weft eval` do not compare calls of tools yet. Learn them uncompared (weft train {dataset.path}, "
            "or a job of weft serve, whose model answers with calls), or leave these rows out."
        )


def _most_serious(findings: tuple[Finding, ...]) -> list[Finding]:
    """What is worth a line before the long work begins: errors, then warnings; the report has all of them."""
    order = {"error": 0, "warning": 1}
    serious = [finding for finding in findings if finding.severity in order]
    return sorted(serious, key=lambda finding: order[finding.severity])[:MOST_TOLD]


def _sealed(test: tuple[Conversation, ...], most: int) -> tuple[Conversation, ...]:
    """At most `most` rows, always the same ones: those whose content hashes lowest, in file order."""
    if len(test) <= most:
        return test
    by_hash = sorted(test, key=lambda example: hashlib.sha256(repr(example.messages).encode()).digest())
    chosen = {id(example) for example in by_hash[:most]}
    return tuple(example for example in test if id(example) in chosen)
