"""The training: facts, curves, and the curves in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.evaluate.report import charts, words


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
        ("Published step", words.count(_published_last(record))),
        ("Best by", chosen_by(record)),
        ("Stopped because", record.get("stopped_because")),
        ("Time", words.seconds(record.get("seconds"))),
        ("Tokens seen", words.count(record.get("tokens"))),
    ]
    return [(name, str(fact)) for name, fact in known if fact not in (None, "", words.NOTHING)]


def chosen_by(record: Mapping[str, Any]) -> str:
    """The score that chose the best step, with its value; nothing where that was the loss."""
    by = record.get("chosen_by", "loss")
    return "" if by == "loss" else f"{by} {record['best_measures'][by]:.3f}"


def _published_last(record: Mapping[str, Any]) -> int | None:
    """The last step, where it was published although another was the best; records of earlier versions have none."""
    published = record.get("published_step")
    return None if published == record.get("best_step") else published


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
    last = _published_last(record)
    if kept and last is not None:
        said.append(
            f"Validation loss is best, {kept[1]:.3f}, at step {words.count(kept[0])}; what was published is the last "
            f"step, {words.count(last)}."
        )
    elif kept and chosen_by(record):
        said.append(
            f"The checkpoint of step {words.count(kept[0])} was kept for its validation {chosen_by(record)}; "
            f"validation loss is {kept[1]:.3f} there."
        )
    elif kept:
        said.append(
            f"Validation loss is best, {kept[1]:.3f}, at step {words.count(kept[0])}; that checkpoint was kept."
        )
    elif validation:
        said.append(f"Validation loss ends at {validation[-1][1]:.3f}.")
    return " ".join(said)
