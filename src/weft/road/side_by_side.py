"""Several finished runs on the same sealed rows: their arms in one table, their tuned models compared in pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.errors import UsageError
from weft.evaluate.compare import compare, holm_corrected
from weft.progress import Progress
from weft.records import Scorecard
from weft.road.measure import read_card
from weft.road.whole import begin, whole
from weft.runs import Run
from weft.tasks import Task


def side_by_side(folders: Sequence[str], progress: Progress) -> dict[str, Any]:
    """`{"runs": [report, …], "comparisons": […]}`; measures what is missing. One comparison per pair of tuned models.

    Raises UsageError where a run is not trained yet, or where two runs were tested on different rows.
    """
    for folder in folders:
        run = Run.open(Path(folder))
        if not run.has("training.json") and not run.has("report.json"):
            raise UsageError(f"{folder}: this run is not trained yet. Continue it with: weft run {folder}")
    reports = [whole(folder, None, None, {}, progress) for folder in folders]
    if len(folders) == 1:
        return {"runs": reports, "comparisons": []}
    task: Task = begin(folders[0], None, None, {}, progress).prepared.task
    cards = [_tuned_card(folder) for folder in folders]
    for card in cards[1:]:
        if [grade.expected for grade in card.grades] != [grade.expected for grade in cards[0].grades]:
            raise UsageError(
                f"{card.arm} and {cards[0].arm} were tested on different rows, so their figures cannot be compared. "
                "Compare runs of the same file with the same --input, --output and --test-rows."
            )
    pairs = [compare(a, b, task) for a, b in itertools.combinations(cards, 2)]
    return {"runs": reports, "comparisons": [comparison.to_json() for comparison in holm_corrected(pairs)]}


def _tuned_card(folder: str) -> Scorecard:
    card = read_card(Run.open(Path(folder)), "tuned")
    if card is None:
        raise UsageError(f"{folder}: its tuned model was not measured (the verdict needed no training).")
    return replace(card, arm=folder)
