"""The loss curves as SVG text that takes its colours and font from the page around it.

Drawn by matplotlib's SVG backend, without pyplot and without a display; the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from weft.errors import MissingExtra
from weft.evaluate.report.words import is_number

Points = Sequence[tuple[float, float]]
"""(step, loss in nats per token)."""

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 160
_COLOURS = {"#000001": "var(--muted)", "#000002": "var(--accent)", "#000003": "var(--ink)", "#000004": "var(--line)"}
_MUTED, _ACCENT, _INK, _LINE = _COLOURS


def finite(points: Sequence[Sequence[Any]] | None) -> list[tuple[float, float]]:
    """The points that can be drawn, in the order of their steps."""
    return sorted((p[0], p[1]) for p in points or () if len(p) == 2 and is_number(p[0]) and is_number(p[1]))


def thinned(points: Points, most: int = MOST_POINTS) -> tuple[list[tuple[float, float]], int]:
    """At most `most` points, each the mean of `size` neighbours, and `size` (1: nothing was averaged)."""
    size = -(-len(points) // most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups], size


def in_a_line(points: Sequence[Sequence[Any]] | None, width: int = 48) -> str:
    """A curve as one line of block characters between its first and last value; empty without points."""
    found, _ = thinned(finite(points), width)
    if len(found) < 2:
        return ""
    losses = [loss for _, loss in found]
    low, spread = min(losses), (max(losses) - min(losses)) or 1.0
    drawn = "".join(BLOCKS[round((loss - low) / spread * (len(BLOCKS) - 1))] for loss in losses)
    return f"{losses[0]:.3f} {drawn} {losses[-1]:.3f}"


def loss_curves(train: Points, validation: Points, best_step: int | None, *, width: float, height: float) -> str:
    """One `<svg>` of `width` by `height` inches: training loss thin, validation strong, the best step marked.

    Raises MissingExtra without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise MissingExtra("the report's charts", "local") from None

    # The salt names clip paths; two sizes on one page must not share an id.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"weft {width}x{height}", "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if train:
            axes.plot(*zip(*thinned(train)[0], strict=True), color=_MUTED, linewidth=1.1, label="training")
        if validation:
            axes.plot(
                *zip(*validation, strict=True),
                color=_ACCENT,
                linewidth=2.2,
                marker="o",
                markersize=4,
                label="validation",
            )
        _mark_best(axes, validation, best_step)
        axes.set_xlabel("step", color=_MUTED)
        axes.set_ylabel("loss (nats per token)", color=_MUTED)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=max(3, int(width)), integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        axes.tick_params(colors=_MUTED, length=0)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, labelcolor=_INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        written = io.StringIO()
        canvas.print_svg(written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(written.getvalue())


def _mark_best(axes: Any, validation: Points, best_step: int | None) -> None:
    best = next(((step, loss) for step, loss in validation if step == best_step), None)
    if best is None:
        return
    axes.axvline(best[0], color=_ACCENT, linewidth=1, linestyle=(0, (3, 3)))
    axes.plot(*best, color=_ACCENT, marker="o", markersize=9)
    left_half = best[0] <= sum(axes.get_xlim()) / 2
    axes.annotate(
        f"best: {best[1]:.3f}",
        best,
        xytext=(9 if left_half else -9, 12),
        textcoords="offset points",
        ha="left" if left_half else "right",
        color=_INK,
    )


def _for_page(svg: str) -> str:
    """Only the `<svg>` element, with the page's colours and font, hidden from screen readers (the caption speaks)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # Names of groups are nobody's, and two charts on one page would share them; clip paths and markers keep theirs.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
