"""Settings with their origins, and where everything came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import words
from weft.evaluate.report.view.named import written


def settings(*tables: Mapping[str, Any] | None) -> dict[str, list[dict[str, str]]]:
    """Those that somebody or something set, and those left at their defaults."""
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        for key, entry in (table or {}).items():
            known = isinstance(entry, Mapping) and "value" in entry
            value, origin = (entry["value"], entry.get("origin") or "") if known else (entry, "")
            rows[key] = {"key": key, "value": written(value), "origin": str(origin)}
    return {
        "set": [row for row in rows.values() if row["origin"] != "default"],
        "default": [row for row in rows.values() if row["origin"] == "default"],
    }


def provenance(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, base = report.get("data") or {}, report.get("base_details") or {}
    parts = [(name, data.get(name)) for name in ("train", "validation", "test") if words.is_number(data.get(name))]
    looks = report.get("test_looks")
    facts = [
        ("Made by", f"weft {report['weft']}" if report.get("weft") else ""),
        ("Made at", words.moment(report.get("created"))),
        ("Run", report.get("run")),
        ("Base", report.get("base")),
        ("Architecture", base.get("architecture")),
        ("Parameters", words.count(base.get("parameters")) if base.get("parameters") is not None else ""),
        ("Context", f"{words.count(base['context'])} tokens" if base.get("context") is not None else ""),
        ("Base fingerprint", base.get("fingerprint")),
        ("Data", data.get("path")),
        ("Layout", data.get("layout")),
        ("Rows", words.count(data.get("rows")) if data.get("rows") is not None else ""),
        ("Split", ", ".join(f"{words.count(number)} {name}" for name, number in parts)),
        ("Data SHA-256", data.get("sha256")),
        ("Looks at the test split", words.count(looks) if looks is not None else ""),
        (
            "Time",
            ", ".join(f"{stage.replace('_', ' ')} {words.seconds(s)}" for stage, s in _stages(report.get("seconds"))),
        ),
    ]
    return [(name, str(fact)) for name, fact in facts if fact not in (None, "")]


def _stages(seconds: Any) -> list[tuple[str, Any]]:
    if isinstance(seconds, Mapping):
        return list(seconds.items())
    return [("whole run", seconds)] if words.is_number(seconds) else []
