"""The page: complete, self-contained, escaped, with the numbers of report.json; looked at in Chromium on request."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from weft.errors import MissingExtra
from weft.evaluate import report as report_room
from weft.evaluate.report import _template, render_html, words
from weft.evaluate.report.charts import loss_curves, thinned
from weft.evaluate.report.differences import pieces
from weft.evaluate.report.view import conclusion, confusion, examples

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = "<script>alert(1)</script>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """What a reader gets: text, tags in order, attributes; and whether every element is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", "".join(self.words).replace("\u202f", " "))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def planted(value: Any) -> Any:
    """The same object with the attack in every text, where numbers stay numbers."""
    if isinstance(value, dict):
        return {key: planted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [planted(inner) for inner in value]
    return value + ATTACK if isinstance(value, str) else value


def test_every_kind_of_run_makes_a_well_formed_page(any_page):
    page = Page(any_page)
    assert not page.wrong and not page.open
    assert len(page.all("h1")) == 1 and page.all("html")[0]["lang"] == "en"


def test_the_page_asks_for_nothing_outside_and_runs_no_script(any_page):
    page = Page(any_page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", any_page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_script_planted_in_every_text_of_the_data_stays_text(any_report):
    (any_report.get("training") or {}).pop("curve", None)  # numbers only; drawn elsewhere
    before, after = Page(render_html(any_report)), Page(render_html(planted(any_report)))
    assert "script" not in {tag for tag, _ in after.tags} and not after.wrong
    allowed = {name for _, attributes in before.tags for name in attributes}
    assert {name for _, attributes in after.tags for name in attributes} <= allowed
    if any_report:
        assert "<script>alert(1)</script>" in after.text
    assert "49" not in after.text or "49" in before.text


def test_markup_in_the_names_of_arms_fields_and_settings_stays_text(sample):
    report = sample("structured")
    report["arms"][0]["metrics"]["<script>m"] = {"value": 0.5}
    report["arms"][0]["details"]["<script>d"] = "x"
    report["settings"]["<script>s"] = {"value": {"<script>": 1}, "origin": "flag"}
    report["seconds"]["<script>t"] = 1.0
    report["verdict"]["costs"]["<script>c"] = 3
    report["training"]["curve"] = None  # the charts hold no text of the data
    assert "<script" not in render_html(report)


def test_the_page_says_the_numbers_of_the_report(sample):
    report = sample("structured")
    text = Page(render_html(report)).text
    for arm in report["arms"]:
        for metric in ("accuracy", "format_consistency", "exact_match"):
            measured = arm["metrics"][metric]
            assert f"{100 * measured['value']:.1f} % ({100 * measured['low']:.1f}–{100 * measured['high']:.1f})" in text  # noqa: RUF001
        assert f"{round(arm['tokens_per_request'])}" in text
    assert "+70.3 points (61.7–78.1)" in text and "−17.2 points (−25.0 to −9.4)" in text  # noqa: RUF001
    assert "614,400 (7.7 % of 7,956,480)" in text and "1 min 34 s" in text
    for row in report["fields"]:
        assert row["field"] in text
    for place in (report["data"]["sha256"], report["use"]["chat"], report["use"]["adapter"], "22 November 2026, 09:14"):
        assert place in text


def test_sections_come_in_the_order_in_which_a_reader_decides(sample):
    ids = [
        a["id"]
        for _, a in Page(render_html(sample("structured") | {"training": None})).tags
        if a.get("id", "").isalpha()
    ]
    assert ids == ["verdict", "arms", "training", "fields", "disagreements", "findings", "settings", "use"]
    ids = [
        a["id"]
        for _, a in Page(render_html(sample("classification") | {"training": None})).tags
        if a.get("id", "").isalpha()
    ]
    assert ids[3] == "confusion" and "fields" not in ids


def test_headings_tables_and_charts_speak_to_a_screen_reader(any_page):
    page = Page(any_page)
    levels = [int(heading[1]) for heading in page.headings]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a")] + [
        a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a
    ]
    assert set(targets) <= set(ids)
    used = re.findall(r"url\(#([^)]*)\)", any_page)
    assert set(used) <= set(ids)


def test_the_sample_page_stays_under_400_kilobytes(any_page):
    assert len(any_page.encode()) < 400_000


def test_the_same_report_gives_the_same_bytes_and_is_left_as_it_was(sample):
    report = sample("structured")
    untouched = copy.deepcopy(report)
    assert render_html(report) == render_html(report)
    assert report == untouched


def test_a_run_without_training_says_so(sample):
    page = Page(render_html(sample("more data")))
    assert "Collect more examples first." in page.text
    assert "Nothing was trained in this run." in page.text and "No arm was measured." in page.text


def test_every_key_of_the_report_may_be_missing_or_null(sample):
    for kind in ("structured", "classification"):
        for key in sample(kind):
            for report in (sample(kind) | {key: None}, {k: v for k, v in sample(kind).items() if k != key}):
                report["training"] = None  # the charts are met elsewhere; without them this is quick
                assert not Page(render_html(report)).wrong


def test_seventy_seven_labels_are_shown_as_the_most_confused_pairs(sample):
    report = sample("many labels")
    found = confusion.pairs(report["confusion"])
    assert found and found["labels"] == 77 and len(found["rows"]) == confusion.PAIRS
    assert confusion.matrix(report["confusion"]) is None
    assert "matrix" not in {a.get("class") for a in Page(render_html(report | {"training": None})).all("table")}


def test_the_confusion_matrix_shows_every_count(sample):
    counted = sample("classification")["confusion"]
    found = confusion.matrix(counted)
    assert found and [[cell["count"] for cell in row["cells"]] for row in found["rows"]] == counted["counts"]
    assert all(row["cells"][i]["right"] for i, row in enumerate(found["rows"]))


def test_findings_of_one_rule_stand_together_with_errors_first():
    found = [{"rule": "r", "line": i, "severity": "note", "message": f"m{i}"} for i in range(1, 40)]
    found.append({"rule": "bad", "line": 3, "severity": "error", "message": "broken"})
    groups = examples.findings(found)
    assert [group["rule"] for group in groups] == ["bad", "r"]
    assert (
        groups[1]["left"] == 39 - examples.SHOWN_PER_RULE
        and groups[1]["more"].startswith("5, 6")
        and "…" in groups[1]["more"]
    )


def test_the_evidence_points_to_the_better_arm_also_where_less_is_better(sample):
    report = sample("structured")
    found = conclusion.evidence(report["verdict"]["comparison"], report)
    assert found and found["right"] == "Fine-tuned better" and found["middle"] == pytest.approx(50 + 50 * 0.703)
    loss = report["verdict"]["comparison"] | {"metric": "log_loss", "difference": -0.4, "low": -0.5, "high": -0.3}
    found = conclusion.evidence(loss, report)
    assert found and found["middle"] == pytest.approx(90) and found["right"] == "Fine-tuned lower loss"


def test_differences_mark_what_is_other_and_what_is_missing():
    found = pieces("the red kettle is lost", "the blue kettle is lost now")
    assert [piece.text for piece in found if piece.kind == "other"] == ["red"]
    assert [piece.text for piece in found if piece.kind == "missing"] == [" now"]
    assert "".join(piece.text for piece in found if piece.kind != "missing") == "the red kettle is lost"


def test_an_answer_with_nothing_in_common_is_left_unmarked():
    assert [piece.kind for piece in pieces("completely other", '{"a":1,"b":[2]}')] == ["same"]
    assert pieces("", "expected") == []


def test_long_answers_are_shortened_and_say_by_how_much(sample):
    text = Page(render_html(sample("text") | {"training": None})).text
    assert "(1,800 more characters)" in text and "(empty answer)" in text
    assert "x" * 1200 in text and "x" * 1201 not in text


def test_control_characters_and_direction_overrides_are_made_visible(sample):
    report = sample("structured")
    report["disagreements"][0]["question"] = "a\x1b[31m\x00\u202eb"
    report["training"] = None
    html = render_html(report)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html) and "a\ufffd[31m\ufffd\ufffdb" in html


def test_loss_curves_keep_out_numbers_that_are_none(sample):
    report = sample("structured")
    report["training"]["curve"]["train"][3] = [4, float("nan")]
    report["training"]["curve"]["validation"].append([260, None])
    html = render_html(report)
    assert not re.search(r"\bnan\b", html.lower()) and 'aria-label="Loss curves.' in html


def test_loss_curves_take_the_colours_of_the_page_and_mark_the_best_step(sample):
    curve = sample("structured")["training"]["curve"]
    svg = loss_curves(curve["train"], curve["validation"], 200, width=4, height=3)
    assert not re.search("#[0-9a-fA-F]{6}", svg) and "var(--accent)" in svg
    assert "best: 0.174" in svg and "nats per token" in svg
    assert "<style" not in svg and "metadata" not in svg


def test_curves_are_thinned_by_means_that_keep_the_total():
    points = [(float(step), float(step % 7)) for step in range(640)]
    kept, size = thinned(points, 160)
    assert (len(kept), size) == (160, 4)
    assert sum(loss for _, loss in kept) * size == pytest.approx(sum(loss for _, loss in points))
    assert thinned([]) == ([], 1)


def test_numbers_carry_their_units():
    assert words.interval("accuracy", {"value": 0.923, "low": 0.861, "high": 0.96}) == "92.3\u202f% (86.1\u201396.0)"
    assert words.interval("chrf", {"value": 0.5}) == "50.0" and words.interval("accuracy", None) == words.NOTHING
    assert words.interval("log_loss", {"value": 1.2, "low": 1, "high": 1.5}) == "1.200\u202fnats (1.000\u20131.500)"
    assert words.difference("accuracy", {"difference": -0.0001, "low": -0.1, "high": 0.1}).startswith("0.0\u202fpoints")
    seconds = [words.seconds(s) for s in (0.00021, 0.0042, 0.31, 4.21, 59.96, 102, 7500, None)]
    spelled = [text.replace("\u202f", " ") for text in seconds]
    assert spelled == ["210 µs", "4.2 ms", "310 ms", "4.21 s", "1 min 00 s", "1 min 42 s", "2 h 05 min", words.NOTHING]
    assert (words.probability(1e-9), words.probability(0.0123), words.probability(None)) == (
        "p < 0.001",
        "p = 0.012",
        "",
    )
    assert words.plural(1, "row") == "1 row" and words.plural(1234, "row") == "1,234 rows"
    assert words.moment("yesterday") == "yesterday" and words.metric_name("fields.id") == "Field id"


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_without_its_libraries_the_report_names_the_extra(sample, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    _template.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'weft\[local\]'"):
        render_html(sample("structured"))


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_colours_reach_contrast_AA_in_both_schemes():
    css = (Path(report_room.__file__).parent / "page.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    light, dark = schemes[:2]
    for colours in (light, light | dark):
        for text in ("ink", "muted", "accent"):
            for ground in ("paper", "raised"):
                bright, dim = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground, colours)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 900, 1280])
def test_no_width_or_scheme_makes_the_page_scroll_sideways(sample, tmp_path, width, scheme):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for kind in ("structured", "classification", "many labels", "text", "more data"):
            file = tmp_path / "report.html"
            file.write_text(render_html(sample(kind)), encoding="utf-8")
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            complaints: list[str] = []
            page.on("console", lambda message, kept=complaints: kept.append(message.text))
            page.on("request", lambda request, kept=complaints: kept.append(request.url))
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, kind
            assert complaints == [file.as_uri()]
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 21)"
            assert dark == (scheme == "dark")
            page.close()
        browser.close()
