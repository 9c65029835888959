"""The sentences of a verdict: figures with units, intervals and p-values, for somebody who reads only this.

Pure text from cards and comparisons; every decision has been made in `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.evaluate.compare import Comparison
from weft.records import Finding, Interval, Scorecard
from weft.tasks import Task

_TITLES = {
    "classical": "the classical classifier",
    "zero-shot": "the bare prompt (zero-shot)",
    "prompted": "the written system prompt",
    "few-shot": "few-shot prompting",
    "rag": "retrieval (RAG)",
    "tuned": "the tuned model",
}
_SCORES = {"chrf": "chrF", "similarity": "similarity"}
_SHARES = ("accuracy", "exact_match")
_AFTER = {"accuracy": " right", "exact_match": " right", "format_consistency": " in the right form"}


def title(arm: str) -> str:
    """How a sentence names an arm."""
    return _TITLES.get(arm, arm)


def quote(text: str, most: int = 80) -> str:
    """A text of the data inside a sentence: on one line, shortened."""
    flat = " ".join(text.split())
    return f"“{flat if len(flat) <= most else flat[: most - 1] + '…'}”"


def level(metric: str, value: Interval) -> str:
    """`96.9 % right (92.3-98.8)`, or `chrF 61.2 (58.0-64.1)`: scores times 100, so that differences are in points."""
    return f"{_number(metric, value.value)}{_AFTER.get(metric, '')} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def gap(comparison: Comparison) -> str:
    """`42.2 points (32.9 to 50.8, p < 0.001, 128 rows)`."""
    p = comparison.corrected_p
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"
    points = [f"{100 * x:.1f}" for x in (comparison.difference, comparison.low, comparison.high)]
    return f"{points[0]} points ({points[1]} to {points[2]}, {shown}, {comparison.n} rows)"


def reason(task: Task, chosen: Scorecard, rival: Scorecard | None, decisive: Comparison | None, best: str) -> str:
    """One sentence with the evidence for the chosen arm; a second one when its level is poor."""
    metric = task.metric
    said = f"{title(chosen.arm)} reaches {level(metric, chosen.metrics[metric])}"
    if rival is not None and decisive is not None:
        other = f"{title(rival.arm)} {level(metric, rival.metrics[metric])}"
        said += f", {other}: " + _judged(chosen.arm, rival.arm, decisive, best, metric)
    return f"{said[:1].upper()}{said[1:]}.{_poor(metric, chosen.metrics[metric])}"


def _judged(chosen: str, rival: str, decisive: Comparison, best: str, metric: str) -> str:
    if decisive.metric != metric:
        return f"equally right, but it keeps the form more often, by {gap(decisive)}"
    suffices = "it suffices as it is, " if chosen == "zero-shot" else ""
    if chosen != best:
        return f"{suffices}the cheapest arm that is not significantly worse than the best, {gap(decisive)}"
    if decisive.corrected_p < 0.05:
        return f"{suffices}better by {gap(decisive)}"
    return f"{suffices}the best arm and no dearer than the others, ahead by {gap(decisive)}"


def _poor(metric: str, value: Interval) -> str:
    if metric in _SHARES and value.value < 0.5:
        return f" Mind the level: it is still wrong in {100 - 100 * value.value:.0f} % of the requests."
    return ""


def no_better(task: Task, best: Scorecard, control: Scorecard, lead: Comparison, undecided: bool) -> str:
    """Why no arm may claim anything."""
    metric = task.metric
    constant = f"always answering {quote(task.constant)}"
    opponent = constant if control.arm == "always the same answer" else "giving the answers of other rows"
    start = "Nothing here is shown to beat" if undecided else "Nothing here beats"
    return (
        f"{start} {opponent}: that reaches {level(metric, control.metrics[metric])}, the best arm, {title(best.arm)}, "
        f"{level(metric, best.metrics[metric])}, a difference of {gap(lead)}."
    )


def undecided(task: Task, cheap: Scorecard, best: Scorecard, found: Comparison, blind: float) -> tuple[str, str]:
    """Why the test set cannot tell two arms apart, and roughly how many rows could."""
    metric = task.metric
    said = (
        f"The test set is too small to choose: {title(best.arm)} reaches {level(metric, best.metrics[metric])}, "
        f"{title(cheap.arm)}, which is cheaper, {level(metric, cheap.metrics[metric])}; the difference of {gap(found)} "
        f"is neither significant nor surely below {100 * blind:.0f} points."
    )
    half = (found.high - found.low) / 2
    wanted = max(abs(found.difference), blind / 2) / 1.5
    rows = max(found.n + 10, round(found.n * (half / wanted) ** 2, -1))
    return said, f"more examples: about {rows:.0f} test rows (now {found.n}) would tell these two apart"


def would_change(
    task: Task,
    cards: Mapping[str, Scorecard],
    chosen: str,
    rival: str | None,
    decisive: Comparison | None,
    best: str,
    gaps: Mapping[str, Comparison],
    mend: tuple[str, ...],
) -> tuple[str, ...]:
    """What would change the verdict, the likeliest first."""
    changes = []
    metric = task.metric
    if chosen == "tuned" and rival is not None and decisive is not None:
        needed = cards[chosen].metrics[metric].value - (decisive.high - decisive.low) / 2
        changes.append(
            f"an arm without training that reaches about {_number(metric, needed)} ({rival} has "
            f"{_number(metric, cards[rival].metrics[metric].value)}), for instance with a larger base model (`--base`)"
        )
    elif decisive is not None and rival is not None:
        half = (decisive.high - decisive.low) / 2
        changes.append(
            f"another arm better by more than about {100 * half:.0f} points: {decisive.n} test rows cannot show less"
        )
    if _saves_tokens(cards, chosen, best, gaps):
        tuned, now = cards["tuned"].tokens_per_request, cards[chosen].tokens_per_request
        changes.append(
            f"many requests: the tuned model does as well with {tuned:.0f} tokens per request instead of {now:.0f}, "
            "once its training is paid"
        )
    if metric in _SHARES and cards[chosen].metrics[metric].value < 0.5:
        changes.append("more examples or a larger base model (`--base`): the level is low for every arm")
        changes.extend(mend)
    return tuple(changes)


def mending(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Flaws of the data as something that could change a verdict; empty when there are none."""
    rules = list(dict.fromkeys(finding.rule for finding in findings if finding.severity != "note"))
    return (f"mending what the check found ({', '.join(rules)})",) if rules else ()


def _saves_tokens(cards: Mapping[str, Scorecard], chosen: str, best: str, gaps: Mapping[str, Comparison]) -> bool:
    """Whether the tuned arm is not significantly worse than the best and shorter than the chosen language-model arm."""
    if "tuned" not in cards or chosen in ("tuned", "classical"):
        return False
    level_with_best = best == "tuned" or gaps["tuned"].corrected_p >= 0.05
    return level_with_best and cards["tuned"].tokens_per_request < cards[chosen].tokens_per_request


def _number(metric: str, value: float) -> str:
    return f"{_SCORES[metric]} {100 * value:.1f}" if metric in _SCORES else f"{100 * value:.1f} %"
