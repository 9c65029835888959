"""The page in a real browser: it follows jobs, asks models, keeps foreign text text, fits every screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Worker
from tests.web.conftest import ATTACK, a_job, every_state, listening, losses

pytestmark = pytest.mark.browser
SLOTS = "() => [...document.querySelectorAll('.job')].map((job) => [job.id, job.dataset.status, job.open," \
    "...['title', 'state', 'base', 'note'].map((name) => job.querySelector(`[data-is=${name}]`).textContent)," \
    "job.querySelector('progress').hidden, job.querySelector('progress').value, job.querySelector('progress').max," \
    "[...job.querySelectorAll('dl > div')].map((fact) => [fact.querySelector('dt').textContent," \
    "fact.querySelector('time') ? 'a time' : fact.querySelector('dd').textContent])])"  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def tab(browser: Any, address: str, **settings: Any) -> Iterator[Any]:
    """A page of the server; at its end nothing must have been asked of another place or complained of."""
    page = browser.new_page(**settings)
    page.set_default_timeout(30_000)
    outside, complaints = [], []
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(address) else None)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(address)
    yield page
    page.close()
    assert [url for url in outside if not url.startswith("data:")] == []
    assert [said for said in complaints if "401" not in said and "403" not in said] == []


def open_settings(page: Any) -> None:
    """Show the sampling fields, and ask for answers that fit the tiny base's context."""
    page.click("#asking summary")
    page.fill("#most", "64")


def answered(page: Any, number: int) -> None:
    """Wait until so many answers have ended."""
    page.locator(".answer .small:not(:empty)").nth(number - 1).wait_for()


def test_the_script_says_of_a_job_what_the_server_says(browser: Any, tmp_path: Path) -> None:
    with listening(tmp_path / "data") as (server, address):
        made = every_state(server)
        with tab(browser, address, java_script_enabled=False) as still:
            server_says = still.evaluate(SLOTS)
        with tab(browser, address) as live:
            live.wait_for_selector(".job[open] .log li")
            assert live.evaluate(SLOTS) == server_says
        key = server.store.keys.create("page", "local", ("files", "jobs", "models", "chat"))[1]
        with tab(browser, address) as keyed:
            assert keyed.locator(".job").count() == 0 and not keyed.locator("#jobs").is_visible()
            keyed.fill("#key", "weft-sk-wrong")
            keyed.press("#key", "Enter")
            keyed.wait_for_selector("#trouble:has-text('Incorrect API key')")
            keyed.fill("#key", key)
            keyed.press("#key", "Enter")
            keyed.wait_for_selector(f"#{made['running'].id}[open] .log li")
            assert keyed.evaluate(SLOTS) == server_says
            kept = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, location.href]"
            assert key not in str(keyed.evaluate(kept)) + keyed.content()


def test_no_text_of_a_job_or_a_model_becomes_a_script(browser: Any, tmp_path: Path) -> None:
    with listening(tmp_path / "data", speaks=True) as (server, address):
        made = every_state(server)
        with tab(browser, address) as page:
            page.wait_for_selector(".job[open] .log li")
            assert ATTACK in page.inner_text(".job[open] .log")
            open_settings(page)
            page.fill("#system", ATTACK[:30])
            page.fill("#question", ATTACK)
            page.press("#question", "Enter")
            answered(page, 2)
            assert "<script>window.hit=1</script>" in page.inner_text(".answer >> nth=0")
            page.click(f"#{made['failed'].id} summary")
            page.wait_for_selector(f"#{made['failed'].id} .log li")
            assert page.evaluate("window.hit") is None
            assert page.locator("script").count() == 1 and page.locator("img").count() == 0


def test_a_job_that_trains_is_followed_while_it_does(browser: Any, tmp_path: Path) -> None:
    with listening(tmp_path / "data") as (server, address), tab(browser, address) as page:
        assert page.is_visible("#first-job")
        job = a_job(server, suffix="tickets")
        page.wait_for_selector(f"#{job.id}")
        assert not page.is_visible("#first-job")
        lease = Worker(server).start()
        losses(server, job, lease.attempt, 20, 60)
        page.wait_for_selector(f"#{job.id}[open] .valid")
        page.wait_for_selector("progress[value='20']")
        assert "1 job is training" in page.title()
        losses(server, job, lease.attempt, 40, 60)
        page.wait_for_selector("progress[value='40']")
        assert "Loss over 60 steps: training" in (page.get_attribute(".drawing svg", "aria-label") or "")
        assert len((page.get_attribute(".train", "points") or "").split()) == 40


def test_two_models_answer_one_question_with_the_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    with listening(tmp_path / "data", speaks=True) as (_, address), tab(browser, address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        open_settings(page)
        page.select_option("#model-b", "gpt-4o-mini")
        page.focus("#question")
        page.keyboard.type("Where is it?")
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Enter")
        answered(page, 2)
        assert page.locator(".answer h4").all_inner_texts() == ["weft-nano", "gpt-4o-mini"]
        assert "Where is it?" in page.inner_text(".answer >> nth=1") and "tokens" in page.inner_text(".answer >> nth=1")
        assert page.evaluate("document.activeElement.id") == "question"
        page.keyboard.type("And now?")
        page.keyboard.press("Enter")
        answered(page, 4)
        assert "Where is it?" in page.inner_text(".answer >> nth=3")  # the history went with it
        page.click("#anew")
        assert page.locator(".answer").count() == 0
        page.fill("#question", "x" * 90)
        page.keyboard.press("Enter")
        page.click("#stop")
        page.wait_for_selector(".answer :text('Stopped.')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_makes_the_page_scroll_sideways(browser: Any, tmp_path: Path, scheme: Any) -> None:
    with listening(tmp_path / "data") as (server, address):
        every_state(server)
        a_job(server, suffix="w" * 64, metadata={"a" * 64: "b" * 512})
        with tab(browser, address, color_scheme=scheme) as page:
            page.wait_for_selector(".drawing svg")
            for width in (320, 390, 768, 1280):
                page.set_viewport_size({"width": width, "height": 844})
                for place in (0, 3):
                    page.locator(".job summary").nth(place).click()
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, width
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 21)"
            assert dark == (scheme == "dark")
