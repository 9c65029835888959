"""From report.json's object to what the page shows, section by section: what is picked, folded, drawn and how.

No HTML here and no file: dictionaries and lists of text for `page.html.j2`. A key that is absent or null leaves its
section out, or says in words what did not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import words
from weft.evaluate.report.view.conclusion import compared, verdict
from weft.evaluate.report.view.confusion import matrix, pairs
from weft.evaluate.report.view.examples import data, disagreements, findings
from weft.evaluate.report.view.learning import training
from weft.evaluate.report.view.origins import provenance, settings
from weft.evaluate.report.view.tables import arms, fields

USES = {
    "chat": "Talk to it",
    "eval": "Measure it again",
    "adapter": "The trained weights",
    "schema": "The JSON schema, to be sent as response_format",
}


def page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs."""
    use = report.get("use") or {}
    return {
        "name": str(report.get("run") or "run").rstrip("/").rsplit("/", 1)[-1],
        "masthead": [fact for fact in (report.get("base"), words.moment(report.get("created"))) if fact],
        "task": (report.get("task") or {}).get("description") or "",
        "verdict": verdict(report),
        "arms": arms(report),
        "comparisons": [compared(c, report) for c in report.get("comparisons") or ()],
        "training": training(report.get("training")),
        "matrix": matrix(report.get("confusion")),
        "pairs": pairs(report.get("confusion")),
        "fields": fields(report),
        "disagreements": disagreements(report),
        "data": data(report.get("data") or {}),
        "findings": findings((report.get("data") or {}).get("findings") or ()),
        "settings": settings(report.get("settings"), (report.get("training") or {}).get("settings")),
        "use": [(title, use[key]) for key, title in USES.items() if use.get(key)],
        "provenance": provenance(report),
    }
