"""What stands in rows of the data: disagreements side by side, the file in words, findings by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.evaluate.report import words
from weft.evaluate.report.differences import pieces, shortened
from weft.evaluate.report.view.named import titles

SHOWN_PER_RULE = 4
DISAGREEMENTS = 10


def disagreements(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    named = titles(report)
    return [
        {
            "line": row.get("line"),
            "question": _text(row.get("question", "")),
            "expected": _text(row.get("expected", "")),
            "answers": [
                {
                    "title": named.get(arm, arm),
                    "right": (row.get("right") or {}).get(arm),
                    "pieces": pieces(shortened(str(answer))[0], shortened(str(row.get("expected", "")))[0]),
                    "left_out": shortened(str(answer))[1],
                }
                for arm, answer in (row.get("answers") or {}).items()
            ],
        }
        for row in (report.get("disagreements") or ())[:DISAGREEMENTS]
    ]


def _text(text: Any) -> dict[str, Any]:
    shown, left_out = shortened(str(text))
    return {"text": shown, "left_out": left_out}


def data(known: Mapping[str, Any]) -> str:
    """`tickets.jsonl, read as chat messages: 640 rows, of which 420 train …`, as far as it is known."""
    said = str(known.get("path") or "")
    said += f", read as {known['layout']}" if known.get("layout") else ""
    said += f": {words.plural(known['rows'], 'row')}" if known.get("rows") is not None else ""
    parts = [f"{words.count(known[name])} {name}" for name in ("train", "validation", "test") if name in known]
    return f"{said} ({', '.join(parts)})." if parts else f"{said}." if said else ""


def findings(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Findings of one rule and one cure together, errors first; a few messages of each and the lines of the rest."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for finding in found:
        key = tuple(str(finding.get(name) or "") for name in ("severity", "rule", "cost", "cure"))
        groups.setdefault(key, []).append(finding)  # type: ignore[arg-type]
    rank = {"error": 0, "warning": 1, "note": 2}
    ordered = sorted(groups.items(), key=lambda group: rank.get(group[0][0], 3))
    return [
        {
            "severity": severity,
            "rule": rule,
            "cost": cost,
            "cure": cure,
            "count": len(members),
            "shown": members[:SHOWN_PER_RULE],
            "more": _lines(members[SHOWN_PER_RULE:]),
            "left": max(0, len(members) - SHOWN_PER_RULE),
        }
        for (severity, rule, cost, cure), members in ordered
    ]


def _lines(members: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    lines = [str(member["line"]) for member in members if member.get("line")]
    return ", ".join(lines[:most]) + (" …" if len(lines) > most else "")
