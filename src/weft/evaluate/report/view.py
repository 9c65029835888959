"""From report.json's object to what the page shows, section by section: what is picked, folded, drawn and how.

No HTML here and no file: dictionaries and lists of text for `page.html.j2`. A key that is absent or null leaves its
section out, or says in words what did not happen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from weft.evaluate.report import charts, words
from weft.evaluate.report.differences import pieces, shortened

MATRIX_LABELS = 12
"""Up to this many labels the confusion is a matrix; above, a list of the most confused pairs."""
PAIRS = 12
SHOWN_PER_RULE = 4
DISAGREEMENTS = 10
USES = {"chat": "Talk to it", "eval": "Measure it again", "adapter": "The trained weights"}


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


def titles(report: Mapping[str, Any]) -> dict[str, str]:
    """Arm name → its title."""
    return {arm["name"]: arm.get("title") or arm["name"] for arm in report.get("arms") or ()}


def main_metric(report: Mapping[str, Any]) -> str:
    """The task's metric, or the first that any arm has."""
    named = (report.get("task") or {}).get("metric")
    return named or next((name for arm in report.get("arms") or () for name in arm.get("metrics") or ()), "accuracy")


# Verdict


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    found = report.get("verdict") or {}
    choice = str(found.get("choice") or "")
    title = words.CHOICES.get(choice, choice) or "No verdict yet."
    if choice == "prompt" and found.get("arm") == "zero-shot":
        title = "The base suffices as it is; do not fine-tune."
    costs = {arm: cost for arm, cost in (found.get("costs") or {}).items() if words.is_number(cost)}
    dearest = max(costs.values(), default=0) or 1
    named = titles(report)
    return {
        "choice": choice,
        "title": title,
        "reason": found.get("reason") or "",
        "evidence": evidence(found.get("comparison"), report),
        "would_change": found.get("would_change") or [],
        "costs": [
            {"title": named.get(arm, arm), "tokens": words.count(cost), "share": 100 * cost / dearest}
            for arm, cost in sorted(costs.items(), key=lambda pair: pair[1])
        ],
    }


def evidence(comparison: Mapping[str, Any] | None, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The decisive difference on an axis with zero in the middle: positions in percent of its width."""
    if not comparison or not words.is_number(comparison.get("difference")):
        return None
    low, high = (comparison.get(key) for key in ("low", "high"))
    middle = comparison["difference"]
    low, high = low if words.is_number(low) else middle, high if words.is_number(high) else middle
    metric = comparison.get("metric", "")
    # Log-loss and its kind may go beyond 1; shares end at 100 points.
    limit = next((step for step in (0.05, 0.1, 0.25, 0.5, 1) if max(abs(low), abs(high)) <= step), None)
    limit = limit or 1.1 * max(abs(low), abs(high))
    better = "better" if metric not in words.LOWER_IS_BETTER else "lower loss"
    right, left = (titles(report).get(arm, arm) for arm in comparison["arms"])
    if metric in words.LOWER_IS_BETTER:
        low, high, middle = -high, -low, -middle
    scale = "nats" if metric in words.LOWER_IS_BETTER else "points"
    places = (f"{limit:.2f}", 1) if scale == "nats" else (f"{100 * limit:.0f}", 100)
    return {
        "left": f"{left} {better}",
        "right": f"{right} {better}",
        "low": 50 + 50 * low / limit,
        "high": 50 + 50 * high / limit,
        "middle": 50 + 50 * middle / limit,
        "limit": f"{places[0]} {scale}",
        **compared(comparison, report),
    }


def towards(arm: str | None, comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison with `arm` first, where it is the second of the two."""
    first, second = comparison["arms"]
    if second != arm:
        return comparison
    low, high, middle = (comparison.get(key) for key in ("low", "high", "difference"))
    turned = {"difference": middle, "low": high, "high": low}
    return {
        **comparison,
        "arms": [second, first],
        **{key: -number if words.is_number(number) else number for key, number in turned.items()},
    }


def compared(comparison: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison in words."""
    named = titles(report)
    corrected = comparison.get("p_adjusted")
    return {
        "arms": [named.get(arm, arm) for arm in comparison["arms"]],
        "metric": words.metric_name(comparison.get("metric", "")),
        "difference": words.difference(comparison.get("metric", ""), comparison),
        "p": words.probability(comparison.get("p") if corrected is None else corrected),
        "corrected": corrected is not None,
        "test": comparison.get("test") or "",
        "n": words.plural(comparison.get("n"), "row"),
    }


# Arms


def arms(report: Mapping[str, Any]) -> dict[str, Any]:
    """The table's columns and rows: the main metric first, per-field metrics left to their own table."""
    measured = report.get("arms") or ()
    main = main_metric(report)
    names = {main: None} | {name: None for arm in measured for name in arm.get("metrics") or ()}
    columns = [name for name in names if not name.startswith("fields.")]
    chosen = chosen_arm(report)
    return {
        "columns": [words.metric_name(name) for name in columns],
        "n": next((arm.get("n") for arm in measured), None),
        "split": next((arm.get("split") for arm in measured), "test"),
        "rows": [
            {
                "name": arm["name"],
                "title": arm.get("title") or arm["name"],
                "chosen": arm["name"] == chosen,
                "cells": [
                    {
                        "column": words.metric_name(name),
                        "value": words.value(name, (arm.get("metrics") or {}).get(name, {}).get("value")),
                        "bounds": words.bounds(name, (arm.get("metrics") or {}).get(name, {})),
                        "bar": bar((arm.get("metrics") or {}).get(name)) if name not in words.LOWER_IS_BETTER else None,
                        "main": name == main,
                    }
                    for name in columns
                ],
                "tokens": words.tokens(arm.get("tokens_per_request")),
                "seconds": words.seconds(arm.get("seconds_per_request")),
                "details": described(arm.get("details") or {}),
            }
            for arm in measured
        ],
        "control": _control(main, (report.get("verdict") or {}).get("control")),
    }


def _control(metric: str, measured: Mapping[str, Any] | None) -> str:
    return words.interval(metric, measured) if measured else ""


def chosen_arm(report: Mapping[str, Any]) -> str | None:
    """The arm that the verdict stands for."""
    found = report.get("verdict") or {}
    if "arm" in found:
        return found["arm"]
    return {"fine-tune": "tuned", "prompt": "prompted"}.get(str(found.get("choice")), found.get("choice"))


def bar(measured: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Value and interval of a share as positions from 0 to 100."""
    if not measured or not words.is_number(measured.get("value")):
        return None
    known = {key: measured[key] for key in ("low", "high", "value") if words.is_number(measured.get(key))}
    return {key: min(100.0, max(0.0, 100 * known.get(key, known["value"]))) for key in ("low", "high", "value")}


def described(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an arm was, entry by entry: short values on a line, long texts and lists in a block of their own."""
    found = []
    for key, value in details.items():
        if value is None or value == "" or value == []:
            continue
        text = value if isinstance(value, str) else _written(value, indent=2)
        found.append({"key": key.replace("_", " "), "text": text, "block": len(text) > 60 or "\n" in text})
    return found


# Training


def training(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not record:
        return None
    curve = record.get("curve") or {}
    train, validation = charts.finite(curve.get("train")), charts.finite(curve.get("validation"))
    best_step = record.get("best_step")
    drawn = len(train) > 1 or len(validation) > 1
    return {
        "facts": facts(record),
        "wide": charts.loss_curves(train, validation, best_step, width=8.4, height=3.1) if drawn else "",
        "narrow": charts.loss_curves(train, validation, best_step, width=4.0, height=2.9) if drawn else "",
        "caption": curve_in_words(record),
        "validation": [(words.count(step), f"{loss:.3f}", step == best_step) for step, loss in validation],
    }


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained, for how long, and why it ended: name and value of what is known."""
    trainable, total = record.get("trainable_parameters"), record.get("total_parameters")
    share = f" ({words.value('accuracy', trainable / total)} of {words.count(total)})" if trainable and total else ""
    known = [
        ("Method", record.get("method")),
        ("Trainable parameters", f"{words.count(trainable)}{share}" if trainable is not None else None),
        ("Steps", words.count(record.get("steps"))),
        ("Best step", words.count(record.get("best_step"))),
        ("Stopped because", record.get("stopped_because")),
        ("Time", words.seconds(record.get("seconds"))),
        ("Tokens seen", words.count(record.get("tokens"))),
    ]
    return [(name, str(fact)) for name, fact in known if fact not in (None, "", words.NOTHING)]


def curve_in_words(record: Mapping[str, Any]) -> str:
    """What the curves show, for those who do not see them."""
    curve = record.get("curve") or {}
    train, validation = charts.finite(curve.get("train")), charts.finite(curve.get("validation"))
    said = []
    if train:
        averaged = charts.thinned(train)[1]
        note = f" (each point the mean of {averaged} steps)" if averaged > 1 else ""
        said.append(f"Training loss goes from {train[0][1]:.3f} to {train[-1][1]:.3f} nats per token{note}.")
    kept = next((point for point in validation if point[0] == record.get("best_step")), None)
    if kept:
        said.append(
            f"Validation loss is best, {kept[1]:.3f}, at step {words.count(kept[0])}; that checkpoint was kept."
        )
    elif validation:
        said.append(f"Validation loss ends at {validation[-1][1]:.3f}.")
    return " ".join(said)


# Confusion, fields


def matrix(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts with the share of the row as heat (0 … 100); None with too many labels to read."""
    if not confusion or not confusion.get("labels") or len(confusion["labels"]) > MATRIX_LABELS:
        return None
    rows = []
    for at, (label, counts) in enumerate(zip(confusion["labels"], confusion["counts"], strict=True)):
        total = sum(counts) or 1
        cells = [{"count": c, "heat": round(100 * c / total), "right": i == at} for i, c in enumerate(counts)]
        rows.append({"label": label, "cells": cells})
    return {"labels": confusion["labels"], "rows": rows}


def pairs(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The pairs of labels that are mistaken most, where a matrix would be too large."""
    if not confusion or not confusion.get("labels") or len(confusion["labels"]) <= MATRIX_LABELS:
        return None
    found = mistaken(confusion)
    most = found[0]["count"] if found else 1
    return {
        "labels": len(confusion["labels"]),
        "kinds": len(found),
        "wrong": sum(pair["count"] for pair in found),
        "rows": [pair | {"share": 100 * pair["count"] / most} for pair in found[:PAIRS]],
    }


def mistaken(confusion: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Pairs of labels, expected and answered, by how often one was taken for the other; `of`: rows of the expected."""
    if not confusion or not confusion.get("labels"):
        return []
    labels = confusion["labels"]
    found = [
        {"expected": labels[i], "answered": labels[j], "count": count, "of": sum(row)}
        for i, row in enumerate(confusion["counts"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda pair: -pair["count"])


def fields(report: Mapping[str, Any]) -> dict[str, Any] | None:
    table = report.get("fields")
    if not table:
        return None
    present = {arm: None for row in table for arm in row.get("arms") or {}}
    named = titles(report)
    return {
        "arms": [named.get(arm, arm) for arm in present],
        "rows": [
            {
                "field": row["field"],
                "cells": [
                    {
                        "arm": named.get(arm, arm),
                        "value": words.value("accuracy", (row["arms"].get(arm) or {}).get("value")),
                        "bounds": words.bounds("accuracy", row["arms"].get(arm) or {}),
                        "bar": bar(row["arms"].get(arm)),
                        "main": False,
                    }
                    for arm in present
                ],
            }
            for row in table
        ],
    }


# Disagreements, findings


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


# Settings, provenance


def settings(*tables: Mapping[str, Any] | None) -> dict[str, list[dict[str, str]]]:
    """Those that somebody or something set, and those left at their defaults."""
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        for key, entry in (table or {}).items():
            known = isinstance(entry, Mapping) and "value" in entry
            value, origin = (entry["value"], entry.get("origin") or "") if known else (entry, "")
            rows[key] = {"key": key, "value": _written(value), "origin": str(origin)}
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


def _written(value: Any, indent: int | None = None) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=indent, default=str)
