"""The run's record as one object and one page: `report.json` and `report.html`. Every figure comes from a scorecard."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping
from typing import Any

from weft import __version__
from weft.decide.verdict import Verdict
from weft.evaluate.arms import TITLES
from weft.evaluate.compare import compare_all
from weft.evaluate.report import render_html
from weft.evaluate.score import confusion, field_table
from weft.models.load import Base
from weft.records import Scorecard
from weft.road.measure import looks
from weft.road.prepare import Prepared
from weft.road.settings import RoadConfig
from weft.road.structured import SCHEMA
from weft.runs import Run, write_whole
from weft.settings import Resolved

MOST_DISAGREEMENTS = 10


def conclude(
    run: Run,
    base: Base,
    prepared: Prepared,
    settings: Resolved[RoadConfig],
    cards: Mapping[str, Scorecard],
    training: dict[str, Any] | None,
    verdict: Verdict,
) -> dict[str, Any]:
    """Write report.html, then report.json (whose presence says that the run is finished); returns the report."""
    dataset, task = prepared.dataset, prepared.task
    folder = run.folder.as_posix()
    published = None if training is None else f"{folder}/{training['result']}"
    schema = run.read_json(SCHEMA) if run.has(SCHEMA) else None
    report: dict[str, Any] = {
        "weft": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": folder,
        "base": settings.config.base,
        "base_details": {
            "architecture": base.architecture,
            "parameters": base.parameters,
            "context": base.context,
            "fingerprint": run.settings["base_sha256"],
        },
        "data": {
            "path": dataset.path,
            "layout": dataset.layout,
            "rows": dataset.rows,
            **prepared.sizes,
            "sha256": dataset.sha256,
            "findings": [finding.to_json() for finding in prepared.findings],
        },
        "task": task.to_json(),
        "schema": schema,
        "arms": [_arm(card) for card in cards.values()],
        "comparisons": [c.to_json() for c in compare_all(list(cards.values()), task)] if len(cards) > 1 else [],
        "training": training,
        "confusion": _confusion(prepared, cards),
        "fields": field_table(task, list(cards.values())) if cards and task.kind == "structured" else None,
        "disagreements": _disagreements(prepared, cards),
        "verdict": verdict.to_json(),
        "settings": settings.to_json(),
        "use": _use(folder, published, schema is not None),
        "report": f"{folder}/report.html",
        "adapter": published,
        "test_looks": looks(run),
    }
    write_whole(run.path("report.html"), render_html(report).encode())
    run.write_json("report.json", report)
    return report


def _arm(card: Scorecard) -> dict[str, Any]:
    return {
        "name": card.arm,
        "title": TITLES[card.arm],
        "split": card.split,
        "n": len(card.grades),
        "metrics": {name: interval.to_json() for name, interval in card.metrics.items()},
        "tokens_per_request": round(card.tokens_per_request, 1),
        "seconds_per_request": round(card.seconds_per_request, 4),
        "details": card.details,
    }


def _confusion(prepared: Prepared, cards: Mapping[str, Scorecard]) -> dict[str, Any] | None:
    card = cards.get("tuned")
    if card is None or prepared.task.kind != "classification":
        return None
    return confusion(prepared.task, card.grades)


def _disagreements(prepared: Prepared, cards: Mapping[str, Scorecard]) -> list[dict[str, Any]]:
    """Test rows on which the arms differ most in being right, at most ten, spread over the file."""
    metric = prepared.task.metric
    rows = []
    for number, example in enumerate(prepared.split.test):
        scores = {name: card.grades[number].scores[metric] for name, card in cards.items()}
        if scores and max(scores.values()) - min(scores.values()) > 0:
            rows.append((max(scores.values()) - min(scores.values()), example, number, scores))
    rows.sort(key=lambda row: -row[0])
    top = rows[: 5 * MOST_DISAGREEMENTS]
    chosen = sorted(top[:: max(1, len(top) // MOST_DISAGREEMENTS)][:MOST_DISAGREEMENTS], key=lambda row: row[2])
    return [
        {
            "line": example.line,
            "question": example.question,
            "expected": example.answer,
            "answers": {name: card.grades[number].answer for name, card in cards.items()},
            "right": {name: score >= 1.0 for name, score in scores.items()},
        }
        for _, example, number, scores in chosen
    ]


def _use(folder: str, published: str | None, held: bool) -> dict[str, str]:
    page = {"report": f"{folder}/report.html", **({"schema": f"{folder}/{SCHEMA}"} if held else {})}
    if published is None:
        return page
    name = shlex.quote(folder)
    return {**page, "adapter": published, "chat": f"weft chat {name}", "eval": f"weft eval {name}"}
