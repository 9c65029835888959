"""The page as the server gives it: jobs and models in words, nothing of anybody who needs a key, text stays text."""

from __future__ import annotations

import base64
import hashlib
import re
import runpy
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.serve.conftest import World, chat_rows
from tests.web.conftest import a_job, every_state, listening
from weft import web
from weft.evaluate import report
from weft.serve.access import PUBLIC
from weft.serve.records import Job
from weft.web.view import STATES, headline, kind

Busy = tuple[World, dict[str, Job]]
VOID = {"meta", "br", "link", "input"}


class Page(HTMLParser):
    """Tags with attributes, headings, the text, and whether every element is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(world: World) -> Page:
    answer = world.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def test_every_state_of_a_job_is_said_in_words(busy: Busy) -> None:
    world, made = busy
    found = page(world)
    assert not found.wrong and not found.open
    statuses = {shown["id"]: shown["data-status"] for shown in found.all("details") if "id" in shown}
    assert statuses == {job.id: status for status, job in made.items()}
    for word in (*STATES.values(), "Step 64 of 120, training loss", "It waits for a free slot.", "at step 5 of 40",
                 "It answers as ft:weft-nano:local:tickets:", "gpt-4o-mini = weft-nano", "support-mail", "RD-12",
                 "train.jsonl", "1,234", "1 job is training, 2 wait."):  # fmt: skip
        assert word in found.text, word
    steps = [bar for bar in found.all("progress") if "hidden" not in bar]
    assert [(bar["value"], bar["max"]) for bar in steps] == [("64", "120"), ("5", "40")]
    assert [shown["id"] for shown in found.all("details") if "open" in shown] == [made["running"].id]


def test_scripts_in_names_suffixes_metadata_and_errors_stay_text(seen: World, busy: Busy) -> None:
    before, after = page(seen), page(busy[0])
    assert after.text.count("<script>window.hit=1</script>") >= 4
    assert len(after.all("script")) == 1 == len(before.all("script"))
    assert not after.all("img") and not after.wrong
    allowed = {name for _, attributes in before.tags for name in attributes}
    assert {name for _, attributes in after.tags for name in attributes} <= allowed | {"open", "id"}
    assert not [name for _, attributes in after.tags for name in attributes if name.startswith("on")]
    assert str(7919 * 6101) not in after.text  # what the template engine would make of it


def test_control_characters_in_a_file_name_are_made_visible(seen: World) -> None:
    a_job(seen.server, file="in\u202evoice\x1b[2J.jsonl")
    assert "in\ufffdvoice\ufffd[2J.jsonl" in page(seen).text


def test_nothing_comes_from_outside_and_nothing_runs_but_the_one_script(seen: World) -> None:
    answer = seen.http.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.S)
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["style-src"] == f"'sha256-{hashed}'"  # this style and no other
    assert "unsafe" not in answer.headers["content-security-policy"]
    found = Page(answer.text)
    assert len(found.all("style")) == 1 and not [1 for _, attributes in found.tags if "style" in attributes]
    asked = [script["src"] for script in found.all("script")] + [link["href"] for link in found.all("link")]
    assert [where for where in asked if not where.startswith("data:")] == ["/page.js"]
    part = seen.http.get("/page.js")
    assert part.headers["content-type"] == "text/javascript; charset=utf-8"
    assert part.headers["x-content-type-options"] == "nosniff"
    assert seen.http.head("/page.js").status_code == 200
    script = part.text
    for text in (style, script):
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|localStorage|sessionStorage|document.cookie",
        script,
    )


def test_where_a_key_is_needed_the_page_is_empty_and_asks_for_one(make_page: Callable[..., World]) -> None:
    world = make_page()
    every_state(world.server)
    world.key()
    found = page(world)
    for secret in (
        "support-mail",
        "RD-12",
        "ftjob-",
        "ft:weft",
        "weft-nano",
        "gpt-4o-mini",
        "train.jsonl is",
        " wait.",
    ):
        assert secret not in found.text.replace("one conversation", "")
    assert "This server asks for a key." in found.text
    assert "hidden" not in next(form for form in found.all("form") if form["id"] == "keys")
    field = next(field for field in found.all("input") if field["id"] == "key")
    assert field["type"] == "password" and field["autocomplete"] == "off" and "name" not in field
    assert world.http.get("/page.js").status_code == 200
    assert world.http.get("/v1/fine_tuning/jobs").status_code == 401


def test_the_page_of_an_open_address_shows_nothing_even_before_the_first_key(make_page: Callable[..., World]) -> None:
    world = make_page(host="0.0.0.0")
    a_job(world.server, suffix="support-mail")
    assert "support-mail" not in page(world).text


def test_the_page_needs_no_key_but_a_name_of_this_server(seen: World) -> None:
    assert {"/", "/page.js"} <= PUBLIC
    assert seen.http.get("/", headers={"host": "evil.example"}).status_code == 403
    assert seen.http.get("/", headers={"origin": "https://evil.example"}).status_code == 403
    assert seen.http.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link from elsewhere
    assert seen.http.post("/").status_code == 405
    assert seen.http.head("/").status_code == 200
    assert "/" not in seen.http.get("/openapi.json").json()["paths"]


def test_the_first_six_lines_of_python_make_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(tmp_path / "data") as (server, address):
        found = Page(httpx.get(address).text)
        assert "None yet." in found.text and "No tuned model yet" in found.text
        program = re.search(r'<code id="program">(.*?)</code>', httpx.get(address).text, re.S)
        assert program is not None
        lines = "".join(Page(program[1]).words).splitlines()
        assert len(lines) == 6 and f'base_url="{address}/v1"' in lines[1]
        (tmp_path / "train.jsonl").write_bytes(chat_rows())
        (tmp_path / "first.py").write_text("\n".join(lines))
        monkeypatch.chdir(tmp_path)
        made = runpy.run_path("first.py")["job"]
        assert server.store.jobs.get("local", made.id).model == "weft-nano"
        assert made.id in Page(httpx.get(address).text).text


def test_headings_labels_and_targets_speak_to_a_screen_reader(busy: Busy) -> None:
    found = page(busy[0])
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    fields = {field["id"] for tag in ("input", "select", "textarea") for field in found.all(tag)}
    assert {label["for"] for label in found.all("label")} == fields
    named = ("aria-labelledby", "aria-describedby")
    targets = {attributes[name] for _, attributes in found.tags for name in named if name in attributes}
    assert targets | {a["href"][1:] for a in found.all("a") if a["href"].startswith("#")} <= set(ids)
    assert all(th.get("scope") in ("col", "row") for th in found.all("th"))


def test_tuned_models_come_after_the_bases_and_their_checkpoints_only_in_the_chat(busy: Busy) -> None:
    found = page(busy[0])
    rows = [row["data-model"] for row in found.all("tr") if row.get("data-model")]
    assert rows[:2] == ["weft-nano", "gpt-4o-mini"] and [kind(name) for name in rows[2:]] == ["tuned"]
    assert "2 checkpoints can be chosen" in found.text
    chosen = re.findall(r"<option selected>([^<]*)", busy[0].http.get("/").text)
    assert chosen == ["weft-nano", rows[2]]


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ([], "Nothing is training."),
        (["running", "queued"], "1 job is training, 1 waits."),
        (["running", "running", "failed"], "2 jobs are training."),
        (["validating_files", "queued", "paused"], "Nothing is training, 2 wait."),
    ],
)
def test_the_headline_counts(statuses: list[str], said: str) -> None:
    assert headline(statuses) == said


def test_more_jobs_than_are_shown_are_pointed_to(seen: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.web.view.JOBS", 2)
    for _ in range(3):
        a_job(seen.server)
    found = page(seen)
    assert "These are the 2 newest." in found.text and found.text.count("checking files") == 2


def test_the_page_has_the_colours_of_the_report() -> None:
    of = [(Path(room.__path__[0]) / "page.css").read_text(encoding="utf-8") for room in (web, report)]
    ours, theirs = (re.findall(r"--(?:paper|raised|ink|muted|line|accent): #[0-9a-f]{6}", css) for css in of)
    assert ours == theirs[: len(ours)] and len(ours) == 12
