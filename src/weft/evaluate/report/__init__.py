"""The report: one HTML page that needs nothing but itself, from the object of report.json.

No script, no outside request (a content policy in the page forbids both), light and dark, phone and desktop, paper.
Files: `words` (numbers in words), `view` (what is shown), `charts` (loss curves), `differences` (marks in answers),
`page.html.j2`, `page.css`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from weft.errors import MissingExtra
from weft.evaluate.report import view, words


def render_html(report: Mapping[str, Any]) -> str:
    """The page for `report` (report.json's object). The same object gives the same text.

    Everything from data is escaped by Jinja. Raises MissingExtra without jinja2 or matplotlib.
    """
    try:
        from markupsafe import Markup

        template = _template()
    except ImportError:
        raise MissingExtra("the HTML report", "local") from None

    here = files(__name__)
    # Ours, not the data's: the style sheet, and the charts, which hold numbers only.
    css = Markup(here.joinpath("page.css").read_text(encoding="utf-8"))
    page = view.page(report)
    if page["training"]:
        page["training"] |= {size: Markup(page["training"][size]) for size in ("wide", "narrow")}
    return template.render(page, css=css)


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    environment.filters.update(count=words.count, plural=words.plural)
    return environment.from_string(files(__name__).joinpath("page.html.j2").read_text(encoding="utf-8"))


def _visible(value: Any) -> Any:
    """Control characters of data are shown, not obeyed; None is nothing."""
    if value is None:
        return ""
    return words.plain(value) if type(value) is str else value
