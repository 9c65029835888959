"""The verdict: the cheapest arm that is not significantly worse than the best, or why there is none.

Order of cost: `classical` (no language model at all), then the arms that need no training by tokens per request, then
`tuned`. Tuned comes last even when a prompt is longer: training, keeping and serving an adapter is paid before the
first request, and whether fewer tokens repay it depends on a traffic that the examples do not tell; `would_change` says
so.
A test set too small to see a drop of ten points decides nothing (`more-data`). Nothing is claimed for an arm that does
not beat answers which ignore the question (`none`, see `controls.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from weft.decide import wording as say
from weft.decide.controls import against_controls
from weft.evaluate.compare import Comparison, compare, holm_corrected
from weft.records import Finding, Interval, Scorecard
from weft.tasks import Task

Choice = Literal["fine-tune", "prompt", "few-shot", "rag", "classical", "more-data", "none"]

CHOICES: dict[str, Choice] = {
    "classical": "classical",
    "zero-shot": "prompt",
    "prompted": "prompt",
    "few-shot": "few-shot",
    "rag": "rag",
    "tuned": "fine-tune",
}
"""The choice that each arm stands for; the bare prompt is a prompt, and the reason says that it suffices as it is."""

ALPHA = 0.05
FEWEST_EXAMPLES = 30
FEWEST_TEST_ROWS = 20
SMALL_TEST = 200
"""With fewer rows than this, "not significantly worse" alone proves nothing: the interval must also exclude BLIND."""
BLIND = 0.10
"""A drop that nobody would accept unseen. (Five points would be fairer, but fewer than about 120 rows cannot exclude
them even for two arms that differ in 4 % of the rows: every small set would end in `more-data`.)"""
_FORMAT = "format_consistency"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, why, and what would change that."""

    choice: Choice
    reason: str
    arm: str | None
    """The arm that the choice stands for; None for `more-data` and `none`."""
    comparison: Comparison | None
    """The decisive one: chosen arm minus its rival, or best arm minus the control."""
    would_change: tuple[str, ...]
    costs: dict[str, float]
    """Tokens per 1,000 requests, by arm."""
    control: Interval | None = None
    """What answers that ignore the question reach under the main metric."""

    def to_json(self) -> dict[str, Any]:
        return {
            "choice": self.choice,
            "reason": self.reason,
            "arm": self.arm,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "would_change": list(self.would_change),
            "costs": dict(self.costs),
            "control": self.control.to_json() if self.control else None,
        }


def decide(
    task: Task, cards: Mapping[str, Scorecard], findings: Sequence[Finding], *, sizes: Mapping[str, int]
) -> Verdict:
    """The verdict from the arms' scorecards on the test split.

    `sizes` counts the usable examples: `train`, `validation`, `test`. Cards may be empty only when the sizes already
    decide. Raises ValueError for an unknown arm or when there is nothing to decide from.
    """
    if unknown := sorted(cards.keys() - CHOICES.keys()):
        raise ValueError(f"unknown arm {', '.join(unknown)}: expected some of {', '.join(CHOICES)}")
    costs = {name: round(cards[name].tokens_per_request * 1000, 1) for name in _by_cost(cards)}
    mend = say.mending(findings)
    if early := settled_without_arms(task, findings, sizes=sizes):
        return replace(early, costs=costs)
    if not cards:
        raise ValueError("no scorecards: at least one arm must be measured on the test split")
    names = _by_cost(cards)
    best = max(names, key=lambda name: cards[name].metrics[task.metric].value)  # ties: the cheapest
    lead, control = against_controls(task, cards[best], arms=len(cards))
    if not _better(lead):
        return _no_better_than_control(task, cards[best], control, lead, mend, costs)

    gaps = {c.arms[1]: c for c in holm_corrected([compare(cards[best], cards[n], task) for n in names if n != best])}
    equals = [name for name in names if name == best or not _better(gaps[name])]
    unruly = _worse_in_format(task, [cards[name] for name in equals])
    chosen = next(name for name in equals if name not in unruly)
    if chosen in gaps and cannot_see(gaps[chosen]):
        return _undecided(task, cards, chosen, gaps[chosen], mend, costs, control)

    rival, decisive = _decisive(task, chosen, best, names, cards, gaps, unruly)
    return Verdict(
        choice=CHOICES[chosen],
        reason=say.reason(task, cards[chosen], cards[rival] if rival else None, decisive, best),
        arm=chosen,
        comparison=decisive,
        would_change=say.would_change(task, cards, chosen, rival, decisive, best, gaps, mend),
        costs=costs,
        control=control.metrics[task.metric],
    )


def cannot_see(gap: Comparison) -> bool:
    """Whether a small test set leaves open that the second arm is worse by more than ten points."""
    return gap.n < SMALL_TEST and gap.high > BLIND


def _by_cost(cards: Mapping[str, Scorecard]) -> list[str]:
    """Arms, the cheapest first."""
    place = {"classical": 0, "tuned": 2}
    return sorted(
        cards, key=lambda name: (place.get(name, 1), cards[name].tokens_per_request, list(CHOICES).index(name))
    )


def _better(comparison: Comparison) -> bool:
    """Whether the first arm is significantly better than the second."""
    return comparison.difference > 0 and comparison.corrected_p < ALPHA


def settled_without_arms(task: Task, findings: Sequence[Finding], *, sizes: Mapping[str, int]) -> Verdict | None:
    """A verdict that the sizes or the answers alone force, before anything is measured; else None."""
    mend, total = say.mending(findings), sum(sizes.values())
    if task.distinct == 1 and sizes["train"] > 1:
        reason = (
            f"There is nothing to learn: all {sizes['train']} training answers are the same, "
            f"{say.quote(task.constant)}. A fixed text does it."
        )
        return Verdict("none", reason, None, None, ("examples with different answers", *mend), {})
    if total < FEWEST_EXAMPLES or sizes["test"] < FEWEST_TEST_ROWS:
        reason = (
            f"Too few examples to decide anything: {total} usable ones, {sizes['test']} of them held out for the test; "
            f"at least {FEWEST_EXAMPLES} and {FEWEST_TEST_ROWS} are needed, some hundreds are better."
        )
        more = f"more examples: {FEWEST_TEST_ROWS} test rows need about {FEWEST_TEST_ROWS * 5} examples"
        return Verdict("more-data", reason, None, None, (more, *mend), {})
    return None


def _no_better_than_control(
    task: Task, best: Scorecard, control: Scorecard, lead: Comparison, mend: tuple[str, ...], costs: dict[str, float]
) -> Verdict:
    open_question = lead.n < SMALL_TEST and lead.difference >= BLIND / 2
    change = (
        ("more examples: the lead of the best arm may be real, but this test set cannot show it",)
        if open_question
        else ("cleaner examples, or ones whose answers depend on the question", "a larger base model (`--base`)")
    )
    return Verdict(
        choice="more-data" if open_question else "none",
        reason=say.no_better(task, best, control, lead, open_question),
        arm=None,
        comparison=lead,
        would_change=(*change, *mend),
        costs=costs,
        control=control.metrics[task.metric],
    )


def _undecided(
    task: Task,
    cards: Mapping[str, Scorecard],
    cheap: str,
    gap: Comparison,
    mend: tuple[str, ...],
    costs: dict[str, float],
    control: Scorecard,
) -> Verdict:
    reason, change = say.undecided(task, cards[cheap], cards[gap.arms[0]], gap, BLIND)
    return Verdict("more-data", reason, None, gap, (change, *mend), costs, control.metrics[task.metric])


def _worse_in_format(task: Task, cards: Sequence[Scorecard]) -> dict[str, Comparison]:
    """Of arms that are equally right, those that keep the form significantly less often than the most orderly one."""
    judged = [card for card in cards if _FORMAT in card.metrics]
    if task.metric == _FORMAT or len(judged) < 2:
        return {}
    tidy = max(judged, key=lambda card: (card.metrics[_FORMAT].value, card.metrics[task.metric].value))
    gaps = holm_corrected([compare(tidy, card, task, metric=_FORMAT) for card in judged if card is not tidy])
    return {gap.arms[1]: gap for gap in gaps if _better(gap)}


def _decisive(
    task: Task,
    chosen: str,
    best: str,
    names: Sequence[str],
    cards: Mapping[str, Scorecard],
    gaps: Mapping[str, Comparison],
    unruly: Mapping[str, Comparison],
) -> tuple[str | None, Comparison | None]:
    """The rival that the choice turns on, and chosen minus rival; (None, None) when there is only one arm.

    Chosen below the best: the best. Chosen is the best: the strongest cheaper arm, which it had to beat, by the form
    when they are equally right; without a cheaper one, the runner-up.
    """
    if chosen != best:
        return best, _by_form(task, cards, chosen, unruly[best]) if best in unruly else gaps[chosen].reversed()
    cheaper = names[: names.index(chosen)]
    if pool := cheaper or [name for name in names if name != chosen]:
        rival = min(pool, key=lambda name: gaps[name].difference)
        return rival, _by_form(task, cards, chosen, unruly[rival]) if rival in unruly else gaps[rival]
    return None, None


def _by_form(task: Task, cards: Mapping[str, Scorecard], chosen: str, found: Comparison) -> Comparison:
    """Chosen minus the arm that was put aside for its form; `found` compares that arm with the most orderly one."""
    if found.arms[0] == chosen:
        return found
    return compare(cards[chosen], cards[found.arms[1]], task, metric=_FORMAT)
